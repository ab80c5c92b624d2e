"""QuantizedLinearSuite: does a layer with quantized weights compute what its roundings allow?

Legend: T tokens, M output features, K input features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, cast

import torch
from infopt_reference.quantization import QuantizationScheme, preset
from torch import Tensor, nn
from torch.nn import functional

from ..base import Suite, requires
from ..properties import tried
from ..tally import note_kinds
from .grids import Grid, bounds, grid_of

OUTPUTS, TOKENS = 24, 6
COLUMNS = 192  # K, where no group asks for more
HALF_OVERFLOWS = 8192  # products of 8 whose sum leaves float16


class QuantizedLinear(Protocol):
    """A layer whose weight is quantized; an attribute ``grid`` (`grids.Grid`) as of a quantizer."""

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., K] → [..., M], in the dtype of x."""


class FusedLinear(QuantizedLinear, Protocol):
    """Capability "fused"."""

    def fused(self, x: Tensor) -> Tensor:
        """The same by another kernel."""


class MakeQuantizedLinear(Protocol):
    """The factory that `QuantizedLinearSuite` asks for."""

    def __call__(self, linear: nn.Linear, scheme: QuantizationScheme) -> QuantizedLinear:
        """The layer in that scheme, with no memory of others."""


@dataclass(frozen=True)
class LinearTrial:
    """A float layer, inputs, and how quantized layers are made of it."""

    make: Callable[[], QuantizedLinear]
    linear: nn.Linear
    scheme: QuantizationScheme
    x: Tensor  # [T, K]
    activation_bits: int

    @property
    def exact(self) -> Tensor:
        """Outputs of the float layer, float64 [T, M]."""
        weight, bias = self.linear.weight.double(), self.linear.bias.double()
        return functional.linear(self.x.double(), weight, bias)

    @property
    def arithmetic(self) -> Tensor:
        """What another order of the sums may change, float64 [T, M]: twice the dtype's error."""
        inexact = functional.linear(self.x, self.linear.weight, self.linear.bias).double()
        error = (inexact - self.exact).abs()
        error = error[torch.isfinite(error)]
        largest = error.max() if error.numel() else torch.zeros((), dtype=torch.float64)
        sizes = self.x.double().abs() @ self.linear.weight.double().abs().T
        sums = self.x.shape[1] * torch.finfo(torch.float32).eps * sizes
        return 2 * largest + sums + 2 * torch.finfo(self.x.dtype).eps * self.exact.abs()

    def allowed(self, layer: QuantizedLinear) -> Tensor:
        """Largest error [T, M]: of the weights' rounding, the activations', and the arithmetic.

        |Σ (x + e)(w + d) − Σ x·w| ≤ Σ |x|·|d| + Σ |e|·(|w| + |d|).
        """
        grid: Grid = getattr(layer, "grid", None) or grid_of(self.scheme)
        lost = bounds(self.linear.weight.detach(), self.scheme, grid).error  # [M, K]
        found = self.x.double().abs() @ lost.T
        if self.activation_bits:
            half_step = 0.5 / (2 ** (self.activation_bits - 1) - 1)
            step = half_step + 4 * torch.finfo(torch.float32).eps
            each = step * self.x.double().abs().amax(dim=1)  # [T]
            sizes = self.linear.weight.detach().double().abs() + lost
            found = found + each[:, None] * sizes.sum(dim=1)
        return found + self.arithmetic


on_layers = tried("make_quantized_linear")  # a property of a `LinearTrial`


class QuantizedLinearSuite(Suite):
    """Properties of linear layers with quantized weights, for each of ``schemes`` and ``dtypes``.

    Give a fixture ``make_quantized_linear``: a `MakeQuantizedLinear`. Class attributes say what is
    tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``schemes`` | int8, int4 | schemes of weights |
    | ``dtypes`` | float32, float16, bfloat16 | dtypes of weights and inputs |
    | ``activation_bits`` | 0 | bits that each token is rounded to by its own absmax; 0: none |
    """

    topic = "quantized_linear"
    fixture = "make_quantized_linear"
    fixture_returns = "a callable: (nn.Linear, QuantizationScheme) -> layer"
    offers = {  # noqa: RUF012  # read only
        "fused": "fused(x) computes the same by another kernel",
        "outliers": "features that are large in any token of a call are not rounded (LLM.int8)",
    }
    methods = {"fused": ("fused",)}  # noqa: RUF012  # read only
    schemes: ClassVar[Sequence[QuantizationScheme]] = (preset("int8"), preset("int4"))
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.float16, torch.bfloat16)
    activation_bits: ClassVar[int] = 0

    def made_from(self, implementation: Any) -> Any:
        return implementation(self._linear(self.schemes[0], self.dtypes[0]), self.schemes[0])

    def first_cases(self, implementation: Any) -> Iterator[tuple[str, Callable[[], object]]]:
        for dtype in self.dtypes:
            layer = implementation(self._linear(self.schemes[0], dtype), self.schemes[0])
            columns = _columns(self.schemes[0])
            yield f"a {dtype} token", partial(layer, torch.ones(1, columns, dtype=dtype))

    @on_layers()
    def test_outputs_are_within_the_bound_of_both_roundings(self, trial: LinearTrial) -> None:
        """Weights err by half a step, activations by half of theirs, sums by what the dtype costs.

        Usual causes: scales on the wrong axis, a bias that is left out or rounded, one scale for
        all tokens, an accumulator of the inputs' dtype.
        """
        layer = trial.make()
        given = trial.x.clone()
        found = layer(given)
        assert torch.equal(given, trial.x), "the inputs were modified"
        assert found.dtype is trial.x.dtype, f"{trial.x.dtype} became {found.dtype}"
        _require_within(found, trial.exact, trial.allowed(layer), "output")

    @on_layers()
    def test_nothing_is_remembered_from_earlier_batches(self, trial: LinearTrial) -> None:
        """Outputs after a batch with large features elsewhere are those of a fresh layer.

        Usual causes: outlier columns, or scales of activations, that are kept from the first call.
        """
        expected, used = trial.make()(trial.x.clone()), trial.make()
        other = torch.ones_like(trial.x)
        other[:, 1::7] *= 64
        assert torch.equal(used(other.clone()), trial.make()(other.clone()))
        assert torch.equal(used(trial.x.clone()), expected), "an earlier batch changes outputs"

    @on_layers()
    def test_a_token_alone_is_what_it_is_in_a_batch(self, trial: LinearTrial) -> None:
        """Decoding computes one token where the prompt computed many.

        They differ by the order of sums alone; by both roundings where "outliers" is claimed. Usual
        causes: a kernel for single tokens with other scales, one scale for a whole batch.
        """
        layer = trial.make()
        together = layer(trial.x.clone()).double()
        outliers = "outliers" in self.capabilities
        allowed = 2 * (trial.allowed(layer) if outliers else trial.arithmetic)
        for row in range(len(trial.x)):
            alone = layer(trial.x[row : row + 1].clone())
            _require_within(alone, together[row : row + 1], allowed[row : row + 1], "token alone")

    @on_layers()
    def test_leading_axes_do_not_matter(self, trial: LinearTrial) -> None:
        """[T, K], [1, T, K], [2, T/2, K], strided, and no token at all.

        Usual causes: a flattening that mixes axes, a batch of which the first sequence is read.
        """
        layer, x = trial.make(), trial.x
        expected, features = layer(x.clone()).double(), x.shape[1]
        shapes: dict[str, Tensor] = {
            "one sequence": x[None],
            "two sequences": x.view(2, -1, features),
            "strided": torch.cat([x, x + 1], dim=1)[:, :features],
        }
        for name, inputs in shapes.items():
            found = layer(inputs)
            assert found.shape == (*inputs.shape[:-1], OUTPUTS), f"{name}: {tuple(found.shape)}"
            flat = found.reshape(-1, OUTPUTS)
            _require_within(flat, expected, 2 * trial.arithmetic, name)
        assert layer(x[:0]).shape == (0, OUTPUTS)

    @on_layers()
    def test_tokens_of_zeros_give_the_bias(self, trial: LinearTrial) -> None:
        """Padding is often 0. Usual causes: 0/0 in the scale of a token, an offset of codes."""
        x = trial.x.clone()
        x[1] = 0
        found = trial.make()(x)[1]
        bias = trial.linear.bias.detach()
        assert torch.equal(found, bias), f"off by {float((found - bias).abs().max()):.3g}"

    @on_layers(half_overflows=True)
    def test_long_sums_do_not_overflow(self, trial: LinearTrial) -> None:
        """In the middle of a sum 65,536 is reached, which float16 does not hold; its end is small.

        Usual causes: an accumulator in float16, a scale that is applied after the sum.
        """
        layer = trial.make()
        found = layer(trial.x.clone())
        assert bool(torch.isfinite(found).all()), "a sum overflows, whose result is small"
        _require_within(found, trial.exact, trial.allowed(layer), "output")

    @requires("fused")
    @on_layers()
    def test_the_fused_kernel_computes_the_same(self, trial: LinearTrial) -> None:
        """For a batch and for a single token, but for the order of sums.

        Usual causes: a kernel without the bias, with scales of another group, for other layouts.
        """
        layer = cast(FusedLinear, trial.make())
        for tokens in (slice(None), slice(0, 1)):
            x = trial.x[tokens]
            _require_within(
                layer.fused(x.clone()),
                layer(x.clone()).double(),
                2 * trial.arithmetic[tokens],
                f"{len(x)} tokens fused",
            )

    # How properties are tried

    def _hold(
        self,
        make_quantized_linear: MakeQuantizedLinear,
        holds: Callable[[LinearTrial], None],
        half_overflows: bool = False,
    ) -> None:
        __tracebackhide__ = True
        for scheme in self.schemes:
            for dtype in self.dtypes:
                linear = self._linear(scheme, dtype, half_overflows)
                inputs = [torch.full((2, linear.in_features), 8.0, dtype=dtype)]
                if not half_overflows:
                    inputs = [x.to(dtype) for x in _inputs(linear.in_features)]
                for x in inputs:
                    note_kinds(dtypes=str(dtype).removeprefix("torch."), schemes=scheme)

                    def make(
                        linear: nn.Linear = linear, scheme: QuantizationScheme = scheme
                    ) -> QuantizedLinear:
                        return make_quantized_linear(copy.deepcopy(linear), scheme)

                    with torch.no_grad():
                        holds(LinearTrial(make, linear, scheme, x, self.activation_bits))

    def _linear(
        self, scheme: QuantizationScheme, dtype: torch.dtype, half_overflows: bool = False
    ) -> nn.Linear:
        columns = 2 * HALF_OVERFLOWS if half_overflows else _columns(scheme)
        generator = torch.Generator().manual_seed(0)
        linear = nn.Linear(columns, OUTPUTS)
        weight = torch.randn(OUTPUTS, columns, generator=generator) / 8
        if half_overflows:
            weight = torch.ones(OUTPUTS, columns)
            weight[:, HALF_OVERFLOWS:] = -1
        linear.weight.data = weight
        linear.bias.data = torch.randn(OUTPUTS, generator=generator)
        return linear.to(dtype)


def _columns(scheme: QuantizationScheme) -> int:
    return 2 * (scheme.group_size or COLUMNS // 2)


def _inputs(columns: int) -> Iterator[Tensor]:
    """Inputs [T, K]: plain, with tokens of all sizes, with a few large features."""
    plain = torch.randn(TOKENS, columns, generator=torch.Generator().manual_seed(1))
    yield plain
    yield plain * torch.tensor([1.0, 1e-2, 4.0, 0.1, 30.0, 1.0])[:, None]
    large = plain.clone()
    large[:, 5] *= 40
    large[2, -1] = 60
    yield large


def _require_within(found: Tensor, expected: Tensor, allowed: Tensor, what: str) -> None:
    excess = (found.double() - expected).abs() - allowed
    if bool((excess <= 0).all()):
        return
    row, column = divmod(int(excess.nan_to_num(nan=torch.inf).argmax()), excess.shape[1])
    raise AssertionError(
        f"{what} [{row}, {column}] is {found[row, column].item():.6g}, not "
        f"{expected[row, column].item():.6g} within {allowed[row, column].item():.3g}"
    )
