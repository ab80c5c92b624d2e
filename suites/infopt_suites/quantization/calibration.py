"""What suites of calibrated quantizers work with: protocols, weights, layer inputs, output errors.

Legend: N tokens, M output features (rows), K input features (columns).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, preset, quantize
from torch import Tensor

from ..base import Suite
from ..properties import tried
from ..tally import note_kinds

ROWS, TOKENS, SEEDS = 16, 256, 3
WIDE = 144  # columns: more than the usual block of 128
FLIPPED_ROWS = ROWS // 8  # in which rounding may send a weight next to a tie to the other level


class CalibratedQuantizer(Protocol):
    """Rounds the weight of a linear layer with a view to the inputs that the layer gets.

    Under the capability "gptq", an attribute ``damping`` tells the share of the mean diagonal that
    is added to the Hessian, 0.01 where there is none.
    """

    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Takes inputs [..., K]; the mask [...], given under "masks" alone, is 0 at padding."""

    def quantize(self, weight: Tensor) -> Any:
        """The weight [M, K] as codes and constants, by what was observed."""

    def dequantize(self, quantized: Any) -> Tensor:
        """The weight that the layer then computes with, in its own shape and dtype."""


class CalibratedStateKept(CalibratedQuantizer, Protocol):
    """Capability "state"."""

    def state(self, quantized: Any) -> Mapping[str, Tensor]:
        """Every tensor that has to be kept to decode the weight later."""

    def restore(self, state: Mapping[str, Tensor], quantized: Any) -> Any:
        """A quantized weight from such tensors; what is no tensor may be taken from the other."""


class MakeCalibratedQuantizer(Protocol):
    """The factory that `CalibratedQuantizerSuite` asks for."""

    def __call__(self, scheme: QuantizationScheme) -> CalibratedQuantizer:
        """A quantizer of that scheme, which has observed nothing yet."""


@dataclass(frozen=True)
class Trial:
    """A scheme, and how quantizers of it are made."""

    make: MakeCalibratedQuantizer
    scheme: QuantizationScheme

    def calibrated(self, weight: Tensor, *batches: Tensor) -> Tensor:
        """The weight after a round trip, calibrated on these batches of inputs."""
        quantizer = self.make(self.scheme)
        for batch in batches:
            quantizer.observe(batch)
        return quantizer.dequantize(quantizer.quantize(weight.clone()))


on_schemes = tried("make_calibrated_quantizer")  # a property of a `Trial`


class CalibrationSuite(Suite):
    """Weights, inputs and comparisons that properties of calibrated quantizers share."""

    topic = ""
    fixture = "make_calibrated_quantizer"
    fixture_returns = "a callable: QuantizationScheme -> calibrated quantizer"
    schemes: ClassVar[Sequence[QuantizationScheme]] = (
        QuantizationScheme(bits=4, granularity=Granularity.CHANNEL),
        preset("int4", group_size=32),
    )
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.bfloat16)

    def made_from(self, implementation: Any) -> Any:
        return implementation(self.schemes[0])

    def _hold(
        self,
        make_calibrated_quantizer: MakeCalibratedQuantizer,
        holds: Callable[[Trial], None],
        only: Callable[[QuantizationScheme], bool] = lambda scheme: True,
    ) -> None:
        __tracebackhide__ = True
        for scheme in filter(only, self.schemes):
            note_kinds(schemes=scheme)
            holds(Trial(make_calibrated_quantizer, scheme))

    def _columns(self, scheme: QuantizationScheme) -> int:
        """Three groups, the last one short where that is offered."""
        size = scheme.group_size or 32
        return 2 * size + (size // 2 if "ragged" in self.capabilities else size)

    def _weight(self, scheme: QuantizationScheme, seed: int) -> Tensor:
        return normal(ROWS, self._columns(scheme), 100 + seed)

    def _inputs(self, scheme: QuantizationScheme, seed: int) -> Tensor:
        """Inputs [N, K] with neighbouring features alike, and large ones, elsewhere each seed."""
        columns = self._columns(scheme)
        inputs = autoregressive(TOKENS, columns, seed)
        large = torch.randperm(columns, generator=torch.Generator().manual_seed(seed))[
            : columns // 8
        ]
        inputs[:, large] *= 8
        return inputs

    def _salient(self, scheme: QuantizationScheme) -> Tensor:
        """Independent features of which one in sixteen is large."""
        inputs = normal(2 * TOKENS, self._columns(scheme), seed=7)
        inputs[:, ::16] *= 16
        return inputs

    def _same(self, trial: Trial, variants: Callable[[Tensor], Any], tokens: int = TOKENS) -> None:
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)[:tokens]
        expected = trial.calibrated(weight, inputs)
        for name, batches in variants(inputs):
            found = trial.calibrated(weight, *batches)
            self._assert_same(found, expected, trial.scheme, name)

    def _assert_same(
        self, found: Tensor, expected: Tensor, scheme: QuantizationScheme, name: str
    ) -> None:
        """Equal but for rounding, which may also flip codes next to ties in a few rows."""
        tolerance = rounding(scheme) * expected.abs().amax(dim=1, keepdim=True)
        differ = ~((found - expected).abs() <= tolerance)
        rows = int(differ.any(dim=1).sum())
        assert rows <= FLIPPED_ROWS, (
            f"{scheme}, {name}: {int(differ.sum())} weights in {rows} of {len(differ)} rows differ"
        )

    def _assert_no_harm(
        self, weight: Tensor, restored: Tensor, inputs: Tensor, scheme: QuantizationScheme
    ) -> None:
        assert bool(torch.isfinite(restored).all()), (
            f"{scheme}: {int((~torch.isfinite(restored)).sum())} weights are not finite"
        )
        found = output_error(weight, restored, inputs)
        nearest = output_error(weight, rounded(weight, scheme), inputs)
        assert found <= nearest * (1 + rounding(scheme)), (
            f"{scheme}: output error {found:.6g}, rounding to nearest has {nearest:.6g}"
        )


def rounded(weight: Tensor, scheme: QuantizationScheme) -> Tensor:
    """The weight rounded to nearest."""
    return quantize(weight, scheme).dequantize()


def output_error(weight: Tensor, candidate: Tensor, inputs: Tensor) -> float:
    """‖X·(W − Q)ᵀ‖² in float64."""
    return float((inputs.double() @ (weight.double() - candidate.double()).T).square().sum())


def rounding(scheme: QuantizationScheme) -> float:
    """Relative: float32 sums over all tokens, and a scale stored one place up or down."""
    return TOKENS * torch.finfo(torch.float32).eps + torch.finfo(scheme.scale_dtype).eps


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def autoregressive(tokens: int, columns: int, seed: int) -> Tensor:
    """Features of which each has correlation 0.8 with the one before: condition number about 81."""
    inputs = normal(tokens, columns, seed)
    for column in range(1, columns):
        inputs[:, column] = 0.8 * inputs[:, column - 1] + 0.6 * inputs[:, column]
    return inputs


def padded(sequences: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """A batch [B + 1, T, K] and its mask [B + 1, T], int64 as tokenizers give it.

    Padding is huge, and the last row is nothing else.
    """
    longest = max(len(sequence) for sequence in sequences)
    batch = torch.full((len(sequences) + 1, longest, sequences[0].shape[1]), 1000.0)
    mask = torch.zeros(batch.shape[:2], dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        start = 0 if side == "right" else longest - len(sequence)
        batch[row, start : start + len(sequence)] = sequence
        mask[row, start : start + len(sequence)] = 1
    return batch, mask
