"""CalibratedQuantizerSuite: do GPTQ, AWQ and their kin make good use of calibration inputs?

Legend: N tokens, M output features (rows), K input features (columns).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, preset, quantize
from torch import Tensor

from ..base import Suite, requires
from ..properties import tried
from .column_by_column import column_by_column
from .grids import group_ids

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


class CalibratedQuantizerSuite(Suite):
    """Properties of weight quantizers that are calibrated on layer inputs, for each of ``schemes``.

    Give a fixture ``make_calibrated_quantizer``: a `MakeCalibratedQuantizer`. Errors are those of
    the layer's outputs, ‖X·(W − Q)ᵀ‖², in float64.
    """

    topic = "calibrated_quantizer"
    fixture = "make_calibrated_quantizer"
    fixture_returns = "a callable: QuantizationScheme -> calibrated quantizer"
    offers = {  # noqa: RUF012  # read only
        "ragged": "the last group of a row may be shorter than group_size",
        "streaming": "observe may be called again and again; tokens add up",
        "masks": "observe(inputs, mask) leaves out positions whose mask is 0",
        "gptq": "solves GPTQ's problem, columns in their order, damping times the mean diagonal",
        "updated-groups": "a group's scales come from its weights with all corrections so far",
        "static-groups": "a group's scales come from the original weights",
        "mean-statistic": "scales follow mean |x|, on which one token has little influence (AWQ)",
    }
    schemes: ClassVar[Sequence[QuantizationScheme]] = (
        QuantizationScheme(bits=4, granularity=Granularity.CHANNEL),
        preset("int4", group_size=32),
    )
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.bfloat16)
    methods = {"": ("observe", "quantize", "dequantize")}  # noqa: RUF012  # read only

    @classmethod
    def check_declaration(cls) -> None:
        super().check_declaration()
        groups = {"updated-groups", "static-groups"} & {*cls.capabilities}
        grouped = any(scheme.granularity is Granularity.GROUP for scheme in cls.schemes)
        if "gptq" in cls.capabilities and grouped and len(groups) != 1:
            raise TypeError(
                "'gptq' in groups needs exactly one of 'updated-groups' and 'static-groups': where "
                "a group's scales come from"
            )

    def made_from(self, implementation: Any) -> Any:
        return implementation(self.schemes[0])

    # What calibration is for

    @on_schemes()
    def test_outputs_are_nearer_than_with_rounding_to_nearest(self, trial: Trial) -> None:
        """On correlated inputs with large features no layer gets worse, and most get better.

        Usual causes: corrections that reach the wrong columns (a local index for a global one), a
        last block that is left out, scales that are searched for and not applied, a permutation
        that is not undone, the Hessian of another layer.
        """
        ratios = []
        for seed in range(SEEDS):
            weight, inputs = self._weight(trial.scheme, seed), self._inputs(trial.scheme, seed)
            found = output_error(weight, trial.calibrated(weight, inputs), inputs)
            nearest = output_error(weight, rounded(weight, trial.scheme), inputs)
            assert found <= nearest * (1 + _rounding(trial.scheme)), (
                f"{trial.scheme}, seed {seed}: output error {found:.6g}, rounding to nearest has "
                f"{nearest:.6g}"
            )
            ratios.append(found / nearest)
        assert min(ratios) < 0.95, f"{trial.scheme}: calibration changes next to nothing: {ratios}"

    @on_schemes()
    def test_unrelated_inputs_do_no_harm(self, trial: Trial) -> None:
        """Where all features are alike and independent, little can be won, and nothing be lost.

        A tenth is left for sampling: N tokens never look quite independent. Usual causes: scales
        by a fixed rule, without a search that has rounding to nearest among its candidates.
        """
        weight = self._weight(trial.scheme, 0)
        inputs = _normal(TOKENS, self._columns(trial.scheme), seed=9)
        restored = trial.calibrated(weight, inputs)
        found = output_error(weight, restored, inputs)
        nearest = output_error(weight, rounded(weight, trial.scheme), inputs)
        assert found <= 1.1 * nearest, f"{trial.scheme}: {found:.6g} for {nearest:.6g}"

    @on_schemes()
    def test_calibration_is_really_used(self, trial: Trial) -> None:
        """Each of two layers' inputs gives weights of its own, the better ones for that layer.

        Usual causes: statistics that are collected and not read, those of an earlier layer.
        """
        weight = self._weight(trial.scheme, 0)
        one, other = self._inputs(trial.scheme, 0), self._inputs(trial.scheme, 1)
        by_one = trial.calibrated(weight, one)
        by_other = trial.calibrated(weight, other)
        assert not torch.equal(by_one, by_other), f"{trial.scheme}: inputs make no difference"
        for inputs, own, foreign in ((one, by_one, by_other), (other, by_other, by_one)):
            better, worse = (output_error(weight, q, inputs) for q in (own, foreign))
            assert better < worse, (
                f"{trial.scheme}: calibrated on its inputs, error {better:.6g}; on others "
                f"{worse:.6g}"
            )

    # On what the statistics depend

    @requires("streaming")
    @on_schemes()
    def test_batches_split_otherwise_give_the_same_weights(self, trial: Trial) -> None:
        """The unit is the token: 1 x 64, 4 x 16 and 1 + 63 tokens are the same calibration.

        Usual causes: a running mean over batches, weighted as if all were of one size; only the
        last batch kept; a normalisation by calls.
        """

        def split(inputs: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
            yield "4 x 16", list(torch.tensor_split(inputs, 4))
            yield "1 + 63", [inputs[:1], inputs[1:]]
            yield "63 + 1", [inputs[:63], inputs[63:]]
            yield "a batch of 4 x 16", [inputs.view(4, 16, -1)]

        self._same(trial, split, tokens=64)

    @on_schemes()
    def test_the_order_of_tokens_does_not_matter(self, trial: Trial) -> None:
        """Sums have no order. Usual causes: only the first, or the last, tokens are read."""
        order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(5))
        self._same(trial, lambda x: [("shuffled", [x[order]])])

    @requires("masks")
    @on_schemes()
    def test_padding_is_not_observed(self, trial: Trial) -> None:
        """A padded batch calibrates as its sequences do, whatever stands at the padding.

        Usual causes: a mask that is dropped (invisible with one sequence), statistics over all
        positions, a mask applied to one statistic of two.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        sequences = [inputs[:96], inputs[96:136], inputs[136:160]]
        expected = trial.calibrated(weight, torch.cat(sequences)[None])
        for side in ("right", "left"):
            batch, mask = _padded(sequences, side)
            quantizer = trial.make(trial.scheme)
            quantizer.observe(batch, mask)
            restored = quantizer.dequantize(quantizer.quantize(weight.clone()))
            self._assert_same(restored, expected, trial.scheme, f"padding on the {side}")

    @on_schemes()
    def test_scaling_inputs_by_powers_of_two_changes_nothing(self, trial: Trial) -> None:
        """Which rounding serves the outputs best does not depend on the size of all inputs.

        Usual causes: an absolute damping, an epsilon that suits activations of one size.
        """

        def scaled(inputs: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
            for exponent in (-8, 8):
                yield f"times 2^{exponent}", [inputs * 2.0**exponent]

        self._same(trial, scaled)

    @requires("mean-statistic")
    @on_schemes()
    def test_one_outlier_token_costs_little(self, trial: Trial) -> None:
        """One token of hundreds must not decide which features matter.

        With it the other tokens keep at least half, in decibels, of what calibration gains them.
        Usual causes: the maximum of |x| where the mean is meant.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._salient(trial.scheme)
        spoilt = inputs.clone()
        spoilt[0, 1::4] = 128.0  # features that are small in all other tokens
        errors = [
            output_error(weight, candidate, inputs[1:])
            for candidate in (
                trial.calibrated(weight, spoilt),
                trial.calibrated(weight, inputs),
                rounded(weight, trial.scheme),
            )
        ]
        found, without, nearest = errors
        assert found <= (without * nearest) ** 0.5, (
            f"{trial.scheme}: output error {found:.6g} after one outlier, {without:.6g} without, "
            f"rounding to nearest {nearest:.6g}"
        )

    # Hard inputs

    @on_schemes()
    def test_features_that_are_always_zero_do_no_harm(self, trial: Trial) -> None:
        """Dead features occur in every model; their statistics are 0.

        Usual causes: a division by the statistic, an inverse of a singular Hessian.
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        inputs[:, [0, 7, -1]] = 0
        weight[:, 7] *= 100
        restored = trial.calibrated(weight, inputs)
        self._assert_no_harm(weight, restored, inputs, trial.scheme)

    @on_schemes()
    def test_fewer_tokens_than_features_are_enough(self, trial: Trial) -> None:
        """The Hessian is singular then, and damping makes up for it.

        Usual causes: no damping, a Cholesky factorisation whose failure is not noticed.
        """
        weight = self._weight(trial.scheme, 0)
        inputs = self._inputs(trial.scheme, 0)[: self._columns(trial.scheme) // 4]
        restored = trial.calibrated(weight, inputs)
        self._assert_no_harm(weight, restored, inputs, trial.scheme)

    @on_schemes()
    def test_shape_and_dtype_come_back_and_nothing_is_modified(self, trial: Trial) -> None:
        """Usual causes: float32 throughout, updates in place of the caller's weight or inputs."""
        for dtype in self.dtypes:
            weight = self._weight(trial.scheme, 0).to(dtype)
            inputs = self._inputs(trial.scheme, 0).to(dtype)
            quantizer = trial.make(trial.scheme)
            given = weight.clone(), inputs.clone()
            quantizer.observe(given[1])
            restored = quantizer.dequantize(quantizer.quantize(given[0]))
            assert torch.equal(given[0], weight), f"{trial.scheme}: the weight was modified"
            assert torch.equal(given[1], inputs), f"{trial.scheme}: inputs were modified"
            assert restored.shape == weight.shape
            assert restored.dtype is dtype, f"{trial.scheme}: {dtype} came back as {restored.dtype}"
            assert bool(torch.isfinite(restored).all()), f"{trial.scheme}: not finite"

    @on_schemes()
    def test_nothing_is_left_over_from_other_layers(self, trial: Trial) -> None:
        """Neither other instances nor other weights of the same inputs change the result.

        Usual causes: statistics in a class attribute, a Hessian that is inverted in place, dead
        columns of one weight kept for the next (q, k and v share their inputs).
        """
        weight, inputs = self._weight(trial.scheme, 0), self._inputs(trial.scheme, 0)
        fresh = trial.calibrated(weight, inputs)
        trial.calibrated(weight, self._inputs(trial.scheme, 1))
        quantizer = trial.make(trial.scheme)
        quantizer.observe(inputs)
        first = quantizer.quantize(weight.clone())
        quantizer.quantize(self._weight(trial.scheme, 1))
        again = quantizer.quantize(weight.clone())
        for what, quantized in (("its result", first), ("a second use", again)):
            assert torch.equal(quantizer.dequantize(quantized), fresh), (
                f"{trial.scheme}: {what} depends on what else was quantized"
            )

    # GPTQ

    @requires("gptq")
    @on_schemes(lambda s: s.granularity is not Granularity.GROUP)
    def test_columns_are_rounded_as_one_by_one(self, trial: Trial) -> None:
        """Blocks are there for speed: codes are those of the slow algorithm, column by column.

        Each row may leave its path only at a weight so near a tie that float32 decides it. Usual
        causes: the last columns of a block, or the columns after it, without their corrections;
        local for global indices; another damping; the error not divided by the diagonal.
        """
        self._solves(trial, static=False)

    @requires("gptq", "updated-groups")
    @on_schemes(lambda s: s.granularity is Granularity.GROUP)
    def test_groups_are_scaled_when_their_turn_comes(self, trial: Trial) -> None:
        """Scales of a group come from its weights with the corrections of all columns before it.

        Usual causes: scales of the original weights, corrections that are still missing when the
        group starts inside a block, the first group's scale for all.
        """
        self._solves(trial, static=False)

    @requires("gptq", "static-groups")
    @on_schemes(lambda s: s.granularity is Granularity.GROUP)
    def test_static_groups_keep_the_scales_of_the_original_weights(self, trial: Trial) -> None:
        """Usual causes: scales of updated weights, scales in the order of processed columns."""
        self._solves(trial, static=True)

    @requires("gptq")
    @on_schemes()
    def test_decoded_weights_take_no_more_levels_than_there_are_codes(self, trial: Trial) -> None:
        """At most 2^bits different weights in a group. Usual causes: corrections that are added
        after rounding, scales that decoding takes from another group."""
        weight = self._weight(trial.scheme, 0)
        restored = trial.calibrated(weight, self._inputs(trial.scheme, 0))
        ids = group_ids(weight.shape, trial.scheme)
        most = max(len(set(restored[ids == i].tolist())) for i in range(int(ids.max()) + 1))
        assert most <= 2**trial.scheme.bits, f"{trial.scheme}: {most} levels in one group"

    # How properties are tried

    def _hold(
        self,
        make_calibrated_quantizer: MakeCalibratedQuantizer,
        holds: Callable[[Trial], None],
        only: Callable[[QuantizationScheme], bool] = lambda scheme: True,
    ) -> None:
        __tracebackhide__ = True
        for scheme in filter(only, self.schemes):
            holds(Trial(make_calibrated_quantizer, scheme))

    def _columns(self, scheme: QuantizationScheme) -> int:
        """Three groups, the last one short where that is offered."""
        size = scheme.group_size or 32
        return 2 * size + (size // 2 if "ragged" in self.capabilities else size)

    def _weight(self, scheme: QuantizationScheme, seed: int) -> Tensor:
        return _normal(ROWS, self._columns(scheme), 100 + seed)

    def _inputs(self, scheme: QuantizationScheme, seed: int) -> Tensor:
        """Inputs [N, K] with neighbouring features alike, and large ones, elsewhere each seed."""
        columns = self._columns(scheme)
        inputs = _autoregressive(TOKENS, columns, seed)
        large = torch.randperm(columns, generator=torch.Generator().manual_seed(seed))[
            : columns // 8
        ]
        inputs[:, large] *= 8
        return inputs

    def _salient(self, scheme: QuantizationScheme) -> Tensor:
        """Independent features of which one in sixteen is large."""
        inputs = _normal(2 * TOKENS, self._columns(scheme), seed=7)
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
        tolerance = _rounding(scheme) * expected.abs().amax(dim=1, keepdim=True)
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
        assert found <= nearest * (1 + _rounding(scheme)), (
            f"{scheme}: output error {found:.6g}, rounding to nearest has {nearest:.6g}"
        )

    def _solves(self, trial: Trial, static: bool) -> None:
        scheme = trial.scheme
        if scheme.codebook is not None or scheme.double_quantization:
            return
        columns = self._columns(scheme)
        while columns <= WIDE:
            columns += scheme.group_size or 32
        weight = _normal(ROWS, columns, seed=0)
        inputs = _autoregressive(4 * columns, columns, seed=0)
        found = trial.calibrated(weight, inputs)
        damping = getattr(trial.make(scheme), "damping", 0.01)
        path = column_by_column(weight, inputs, scheme, damping, static_groups=static)
        row, column = path.first_unexplained_step(found)
        assert row is None, (
            f"{scheme}: weight [{row}, {column}] became {found[row, column].item():.6g}, one by "
            f"one {path.rounded[row, column].item():.6g}, and is no near tie "
            f"({path.from_tie[row, column].item():.3g} steps from one)"
        )


def rounded(weight: Tensor, scheme: QuantizationScheme) -> Tensor:
    """The weight rounded to nearest."""
    return quantize(weight, scheme).dequantize()


def output_error(weight: Tensor, candidate: Tensor, inputs: Tensor) -> float:
    """‖X·(W − Q)ᵀ‖² in float64."""
    return float((inputs.double() @ (weight.double() - candidate.double()).T).square().sum())


def _rounding(scheme: QuantizationScheme) -> float:
    """Relative: float32 sums over all tokens, and a scale stored one place up or down."""
    return TOKENS * torch.finfo(torch.float32).eps + torch.finfo(scheme.scale_dtype).eps


def _normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _autoregressive(tokens: int, columns: int, seed: int) -> Tensor:
    """Features of which each has correlation 0.8 with the one before: condition number about 81."""
    inputs = _normal(tokens, columns, seed)
    for column in range(1, columns):
        inputs[:, column] = 0.8 * inputs[:, column - 1] + 0.6 * inputs[:, column]
    return inputs


def _padded(sequences: Sequence[Tensor], side: str) -> tuple[Tensor, Tensor]:
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
