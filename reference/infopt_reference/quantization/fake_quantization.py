"""Fake quantization: float weights that already show the rounding of the format, with a gradient.

forward:   w ↦ quantize(w).dequantize(), the same bits that post-training quantization would give.
backward:  straight-through. Rounding is a staircase, whose true gradient is 0 almost everywhere; it
           is taken as the identity: ∂L/∂w = ∂L/∂ŵ where w is representable, 0 where it is clamped.

Clamped. With scales computed from the weights themselves (the default) the range always reaches the
largest weight: nothing is clamped, the gradient is the identity. With given scales, on a grid of
equal steps a weight is clamped when the code that it rounds to lies outside the codes, as in
`torch.fake_quantize_per_tensor_affine`: up to half a step beyond the outermost level passes. With a
table of levels (`codebook`, `float8`) it is clamped beyond the outermost level. A scale of 0
represents 0 and clamps everything else.

Left out: learned scales (Esser et al. 2020) and gradients through the range, which is constant in
the backward pass; and fake quantization of activations.

Sources: Bengio et al. 2013, arXiv:1308.3432; Jacob et al. 2018, arXiv:1712.05877, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from ..weight_matrices import (
    DEFAULT_SKIP,
    WeightMatrix,
    select_weight_matrices,
    weight_matrices,
)
from .affine import AsymmetricFormat, SymmetricFormat
from .checks import naming
from .grouping import from_rows, scale_shape, to_rows
from .model import QuantizationReport, model_bytes, replace_weights
from .quantized import check_weight, encode, quantize
from .scales import divisor, store_scales
from .scheme import QuantizationScheme, number_format


def fake_quantize(
    weight: Tensor,
    scheme: QuantizationScheme,
    *,
    scales: Tensor | None = None,
    zero_points: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The weights as the scheme would decode them, differentiable by the straight-through rule.

    Args:
        weight: floating point, of any rank.
        scheme: the number format.
        scales: constant scales of shape `grouping.scale_shape`, rounded as ``scale_dtype`` stores
            them; None computes them from the weights, as `quantize` does.
        zero_points: codes of 0 of that shape; with given scales of an asymmetric scheme alone.
        dtype: of the result, as in `QuantizedTensor.dequantize`; the weights' own by default.

    Raises:
        ValueError: as `quantize` does; or the given scales or zero points have a wrong shape, are
            out of range, or the scheme has no use for them.
    """
    # How codes would be stored changes no value.
    scheme = replace(scheme, packed=False)
    if scales is None:
        if zero_points is not None:
            raise ValueError("zero_points are given without scales; give both or neither")
        rounded = quantize(weight, scheme).dequantize(dtype)
        inside = None
    else:
        rounded, inside = _round_to_given(weight, scheme, scales, zero_points, dtype)
    # Not weight + (rounded − weight).detach(): that sum rounds, and the bits would differ.
    result: Tensor = _StraightThrough.apply(weight, rounded, inside)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return result


class FakeQuantizedLinear(nn.Linear):
    """`nn.Linear` that computes with fake-quantized weights and trains the float ones.

    The parameters are those of the layer it is made from, not copies, and keep their names in the
    state_dict. ``weight`` reads fake-quantized, for code that takes it in place of calling the
    layer. Its output is bit for bit that of the `QuantizedLinear` made from it.
    """

    fake_quantized = True

    def __init__(self, linear: nn.Linear, scheme: QuantizationScheme) -> None:
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, has_bias, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scheme = scheme
        self.train(linear.training)

    @property
    def float_weight(self) -> nn.Parameter:
        """The parameter that is trained."""
        weight = self._parameters.get("weight")
        if weight is None:
            raise AttributeError("the layer is not made yet")
        return weight

    @property  # of nn.Linear an attribute
    def weight(self) -> Tensor:
        """The weight as its codes would decode it."""
        return fake_quantize(self.float_weight, self.scheme)

    @weight.setter
    def weight(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        self.register_parameter("weight", parameter)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] → [..., out_features], in the dtype of x."""
        weight = fake_quantize(self.float_weight, self.scheme, dtype=x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return functional.linear(x, weight, bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.scheme}"


class FakeQuantizedParameter(nn.Module):
    """The parametrization of a weight that its module reads by itself: experts, Conv1D.

    Its module sees the parameter fake-quantized; the float one is trained behind it.
    """

    def __init__(self, matrix: WeightMatrix, scheme: QuantizationScheme) -> None:
        super().__init__()
        self.scheme = scheme
        self.is_layer, self.layout = matrix.is_layer, matrix.layout

    def forward(self, parameter: Tensor) -> Tensor:
        """The parameter as its codes would decode it."""
        weight = self.layout.matrices(parameter)
        rows = fake_quantize(weight.reshape(-1, weight.shape[-1]), self.scheme).view(weight.shape)
        return self.layout.stored(rows)


def prepare_qat(
    model: nn.Module, scheme: QuantizationScheme, *, skip: Iterable[str] = DEFAULT_SKIP
) -> tuple[str, ...]:
    """Lets a model compute with fake-quantized weights, in place; the names of their matrices.

    They are those that `quantize_model` would take, tied ones never. `nn.Linear` layers become
    `FakeQuantizedLinear`, other weights get a `FakeQuantizedParameter`. Optimizers made before stay
    valid, since the parameters are the same objects.

    Raises:
        ValueError: as `select_weight_matrices` does, or a weight cannot be quantized; the message
            names it, and the model is as it was.
    """
    matrices = select_weight_matrices(model, skip).chosen
    for name, matrix in matrices.items():
        with naming(name):
            quantize(matrix.rows, scheme)
    fakes: dict[int, FakeQuantizedLinear] = {}
    for matrix in matrices.values():
        module = matrix.module
        if matrix.is_layer and isinstance(module, nn.Linear):
            fake = fakes.setdefault(id(module), FakeQuantizedLinear(module, scheme))
            model.set_submodule(matrix.path, fake)
        elif not parametrize.is_parametrized(module, matrix.parameter_name):
            fake_parameter = FakeQuantizedParameter(matrix, scheme)
            parametrize.register_parametrization(
                module, matrix.parameter_name, fake_parameter, unsafe=True
            )
    return tuple(matrices)


def trained_weights(model: nn.Module) -> list[nn.Parameter]:
    """The float weights behind the fake-quantized ones, each once."""
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        weight = None
        if isinstance(module, FakeQuantizedLinear):
            weight = module.float_weight
        elif isinstance(module, parametrize.ParametrizationList) and _is_fake(module):
            weight = module.get_parameter("original")
        if weight is not None:
            found[id(weight)] = weight
    return list(found.values())


def convert_qat(model: nn.Module) -> QuantizationReport:
    """Replaces fake-quantized weights by quantized ones, in place.

    It is the post-training quantization of the trained weights: the model computes what it computed
    in training, bit for bit.

    Raises:
        ValueError: the model has no such weights, they have different schemes, or training left a
            weight that cannot be quantized (NaN, infinity); the model is as it was.
    """
    fakes = _fake_parameters(model)
    if not fakes:
        raise ValueError("the model has no fake-quantized weights; call prepare_qat first")
    schemes = {scheme for _, scheme in fakes}
    if len(schemes) > 1:
        names = "; ".join(sorted(map(str, schemes)))
        raise ValueError(f"the layers have {len(schemes)} schemes ({names}); prepare with one")
    scheme = schemes.pop()
    before = model_bytes(model)
    for matrix, _ in fakes:
        with naming(matrix.name):
            check_weight(_float_parameter(matrix))
    for matrix, _ in fakes:
        if parametrize.is_parametrized(matrix.module, matrix.parameter_name):
            parametrize.remove_parametrizations(
                matrix.module, matrix.parameter_name, leave_parametrized=False
            )
    matrices = {matrix.name: matrix for matrix, _ in fakes}
    replace_weights(model, matrices, scheme)
    left = weight_matrices(model)
    skipped = dict.fromkeys(left.chosen, "was not prepared") | left.skipped
    return QuantizationReport(scheme, tuple(matrices), skipped, before, model_bytes(model))


def _fake_parameters(model: nn.Module) -> list[tuple[WeightMatrix, QuantizationScheme]]:
    found: list[tuple[WeightMatrix, QuantizationScheme]] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FakeQuantizedLinear):
            found.append((WeightMatrix(path, module, "weight", is_layer=True), module.scheme))
        for name, parametrizations in getattr(module, "parametrizations", {}).items():
            if _is_fake(parametrizations):
                fake = parametrizations[0]
                matrix = WeightMatrix(path, module, name, fake.is_layer, fake.layout)
                found.append((matrix, fake.scheme))
    return found


def _is_fake(parametrizations: nn.ModuleList) -> bool:
    return isinstance(parametrizations[0], FakeQuantizedParameter)


def _float_parameter(matrix: WeightMatrix) -> Tensor:
    if isinstance(matrix.module, FakeQuantizedLinear):
        return matrix.parameter
    return matrix.module.get_parameter(f"parametrizations.{matrix.parameter_name}.original")


class _StraightThrough(torch.autograd.Function):
    """Forward: the rounded weights. Backward: the gradient where ``inside`` holds, else 0."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor, inside: Tensor | None) -> Tensor:
        ctx.dtype = weight.dtype
        ctx.save_for_backward(inside)
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        gradient = gradient.to(ctx.dtype)
        if inside is None:
            return gradient, None, None
        return torch.where(inside, gradient, 0), None, None


@torch.no_grad()
def _round_to_given(
    weight: Tensor,
    scheme: QuantizationScheme,
    scales: Tensor,
    zero_points: Tensor | None,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor]:
    """Rounded weights, and which of them are not clamped (bool), both in the weights' shape."""
    _check_given(weight, scheme, scales, zero_points)
    form = number_format(scheme)
    stored = store_scales(scales.double(), scheme.scale_dtype, form.rounding_error / form.extent)
    zeros = None if zero_points is None else zero_points.to(torch.uint8)
    quantized = encode(weight, scheme, stored, zeros)
    rows = to_rows(weight.double(), scheme)  # [R, n]
    inside = _representable(rows, *quantized.columns(torch.float64), scheme)
    return quantized.dequantize(dtype), from_rows(inside, weight.shape, scheme)


def _representable(
    rows: Tensor, scales: Tensor, zero_points: Tensor | None, scheme: QuantizationScheme
) -> Tensor:
    form = number_format(scheme)
    steps = rows / divisor(scales)
    if isinstance(form, SymmetricFormat | AsymmetricFormat):
        steps.round_()
    if zero_points is None:
        inside = steps.abs() <= form.extent
    else:
        steps += zero_points
        inside = (steps >= 0) & (steps <= form.extent)
    return inside & ((scales != 0) | (rows == 0))


def _check_given(
    weight: Tensor, scheme: QuantizationScheme, scales: Tensor, zero_points: Tensor | None
) -> None:
    check_weight(weight)
    if scheme.double_quantization:
        raise ValueError("double quantization derives its scales from all weights; give none")
    if (zero_points is None) != scheme.symmetric:
        need = "takes no zero_points" if scheme.symmetric else "needs zero_points with its scales"
        raise ValueError(f"the scheme is {scheme}; it {need}")
    shape = scale_shape(weight.shape, scheme)
    for name, given in (("scales", scales), ("zero_points", zero_points)):
        if given is not None and given.shape != shape:
            raise ValueError(
                f"{name} have shape {tuple(given.shape)}; weights of shape {tuple(weight.shape)} "
                f"under {scheme} need {tuple(shape)}"
            )
    if not bool(((scales >= 0) & scales.isfinite()).all()):
        raise ValueError("scales must be finite and 0 or more")
    largest = 2**scheme.bits - 1
    if zero_points is not None and not bool(((zero_points >= 0) & (zero_points <= largest)).all()):
        raise ValueError(
            f"zero_points are {zero_points.min().item()}…{zero_points.max().item()}; they are "
            f"codes, 0…{largest}"
        )
