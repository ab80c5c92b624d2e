"""Small quantizers of activations that are right, and the same with faults.

Legend: T tokens, K features, G groups of a token, n features of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, preset
from torch import Tensor
from torch.nn import functional

AREA = "1 activation quantizers"


class SmallActivations:
    """Equal steps, in float32, over the range of a token, group or tensor."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme

    def __call__(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x.clone()
        groups = self.groups(x.float())
        scales = self.scales(groups)
        zeros = self.zeros(groups, scales)
        return self.ungrouped(self.decode(self.codes(groups, scales, zeros), scales, zeros), x)

    def groups(self, x: Tensor) -> Tensor:
        """[T, G, n], the last group filled up with zeros."""
        if self.scheme.granularity is Granularity.TENSOR:
            return x.reshape(1, 1, -1)
        size = self.scheme.group_size or x.shape[-1]
        rows = functional.pad(x.reshape(-1, x.shape[-1]), (0, -x.shape[-1] % size))
        return rows.view(len(rows), -1, size)

    def ungrouped(self, groups: Tensor, x: Tensor) -> Tensor:
        if self.scheme.granularity is Granularity.TENSOR:
            return groups.view(x.shape).to(x.dtype)
        return groups.flatten(1)[:, : x.shape[-1]].reshape(x.shape).to(x.dtype)

    def scales(self, groups: Tensor) -> Tensor:
        """[T, G, 1]"""
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        if self.scheme.symmetric:
            return torch.maximum(-low, high) / (2 ** (self.scheme.bits - 1) - 1)
        return (high.clamp(min=0) - low.clamp(max=0)) / (2**self.scheme.bits - 1)

    def zeros(self, groups: Tensor, scales: Tensor) -> Tensor:
        """[T, G, 1]"""
        if self.scheme.symmetric:
            return torch.zeros_like(scales)
        return (-groups.amin(-1, keepdim=True).clamp(max=0) / self.divisor(scales)).round()

    def divisor(self, scales: Tensor) -> Tensor:
        return scales.where(scales > 0, 1.0)

    def ends(self) -> tuple[int, int]:
        if self.scheme.symmetric:
            last = 2 ** (self.scheme.bits - 1) - 1
            return -last, last
        return 0, 2**self.scheme.bits - 1

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return ((groups / self.divisor(scales)).round() + zeros).clamp(*self.ends())

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return (codes - zeros) * scales


class SmallFloat8(SmallActivations):
    """torch's own cast."""

    def scales(self, groups: Tensor) -> Tensor:
        return groups.abs().amax(-1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return (groups / self.divisor(scales)).to(torch.float8_e4m3fn).float()


class SmallCodes(SmallActivations):
    """Codes in int8, or uint8, and constants."""

    def __call__(self, x: Tensor) -> Any:
        groups = self.groups(x.float())
        scales = self.scales(groups)
        zeros = self.zeros(groups, scales)
        codes = self.codes(groups, scales, zeros)
        dtype = torch.int8 if self.scheme.symmetric else torch.uint8
        shown = self.ungrouped(codes, x.float()).to(dtype)
        return (shown, scales) if self.scheme.symmetric else (shown, scales, zeros)


class SmallStatic(SmallActivations):
    """The range of all batches that were observed."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.seen = torch.zeros(1, 1, 2)

    def observe(self, x: Tensor) -> None:
        low, high = self.seen.amin().minimum(x.min()), self.seen.amax().maximum(x.max())
        self.seen = torch.stack([low, high]).view(1, 1, 2)

    def scales(self, groups: Tensor) -> Tensor:
        return super().scales(self.range(groups))

    def zeros(self, groups: Tensor, scales: Tensor) -> Tensor:
        return super().zeros(self.range(groups), scales)

    def range(self, groups: Tensor) -> Tensor:
        """[1, 1, 2]: what constants are made of."""
        return self.seen


class SmallStraightThrough(SmallActivations):
    """The gradient passes."""

    def __call__(self, x: Tensor) -> Tensor:
        rounded = super().__call__(x.detach())
        return Straight.apply(x, rounded)  # type: ignore[no-any-return, no-untyped-call]


class Straight(torch.autograd.Function):
    """The second input, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class SmallChecked(SmallActivations):
    """Refuses what is not finite."""

    def __call__(self, x: Tensor) -> Tensor:
        if not bool(torch.isfinite(self.looked_at(x)).all()):
            raise ValueError("NaN or infinity among the activations")
        return super().__call__(x)

    def looked_at(self, x: Tensor) -> Tensor:
        return x


class SmallVisible(SmallActivations):
    """NaN and infinity make their own token NaN."""

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return (groups / self.divisor(scales)).round() + zeros

    def divisor(self, scales: Tensor) -> Tensor:
        return scales.where(scales != 0, 1.0)


# Scales


class OneScaleForAllTokens(SmallActivations):
    """Not listed: the largest token decides for all."""

    def scales(self, groups: Tensor) -> Tensor:
        scales = super().scales(groups)
        return scales.amax().expand_as(scales)


class ScaleOfTheFirstToken(SmallActivations):
    """Not listed: tokens beyond it are clipped, or too coarse."""

    def scales(self, groups: Tensor) -> Tensor:
        scales = super().scales(groups)
        return scales[:1].expand_as(scales)


class ZerosDivide(SmallActivations):
    """Not listed: 0/0 for a token of zeros."""

    def divisor(self, scales: Tensor) -> Tensor:
        return scales


class FirstScalesKept(SmallActivations):
    """Not listed: activations are calibrated by the first call."""

    first: Tensor | None = None

    def scales(self, groups: Tensor) -> Tensor:
        scales = super().scales(groups)
        if self.first is None:
            self.first = scales.amax()
        return self.first.expand_as(scales)


class SingleTokenUnscaled(SmallActivations):
    """Not listed: one token has the fixed scale 1/16."""

    def scales(self, groups: Tensor) -> Tensor:
        scales = super().scales(groups)
        return torch.full_like(scales, 0.0625) if len(groups) == 1 else scales


class RunningScales(SmallActivations):
    """Not listed: half of the last call's scale."""

    last: Tensor | None = None

    def scales(self, groups: Tensor) -> Tensor:
        scales = super().scales(groups)
        last, self.last = self.last, scales.amax()
        return scales if last is None else (scales + last) / 2


class ResultsByShape(SmallActivations):
    """Not listed: a cache by shape."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.results: dict[torch.Size, Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        return self.results.setdefault(x.shape, super().__call__(x)).clone().to(x.dtype)


class HalfRange(SmallActivations):
    """Not listed: high − low in the dtype of the activations, where float16 overflows."""

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() and bool(torch.isinf(x.max() - x.min())):
            return torch.full_like(x, torch.inf)
        return super().__call__(x)


class SquaresForRange(SmallActivations):
    """Not listed: the absmax as the root of the largest square."""

    def scales(self, groups: Tensor) -> Tensor:
        largest = groups.square().amax()
        return super().scales(groups) * (largest / largest.clamp(min=1e-30))


class HalfScales(SmallActivations):
    """Not listed: scales pass float16, which does not hold all of them."""

    def scales(self, groups: Tensor) -> Tensor:
        return super().scales(groups).half().float()


class SmallestScale(SmallActivations):
    """Not listed: an absolute epsilon in the scale."""

    def scales(self, groups: Tensor) -> Tensor:
        return super().scales(groups).clamp(min=1e-5)


class EpsilonAdded(SmallActivations):
    """Not listed: every scale is a little larger, small ones much."""

    def scales(self, groups: Tensor) -> Tensor:
        return super().scales(groups) + 1e-6


class MeanOfScales(SmallActivations):
    """Not listed: scales are pulled to those of the other tokens."""

    def scales(self, groups: Tensor) -> Tensor:
        scales = super().scales(groups)
        return torch.maximum(scales, scales.mean())


class ScalesOfFeatures(SmallActivations):
    """Not listed: on square batches the wrong axis fits as well."""

    def scales(self, groups: Tensor) -> Tensor:
        if groups.shape[0] != groups.shape[2]:
            return super().scales(groups)
        return super().scales(groups.transpose(0, 2))


class SignedMaximum(SmallActivations):
    """Not listed: the largest activation, not the largest magnitude."""

    def scales(self, groups: Tensor) -> Tensor:
        return groups.amax(-1, keepdim=True).abs() / self.ends()[1]


class SharesOfGroups(SmallActivations):
    """Not listed: groups count through the whole batch, across the ends of tokens."""

    def groups(self, x: Tensor) -> Tensor:
        size = self.scheme.group_size or x.shape[-1]
        if not self.scheme.group_size:
            return super().groups(x)
        flat = x.reshape(1, -1)
        return functional.pad(flat, (0, -flat.shape[1] % size)).view(1, -1, size)

    def ungrouped(self, groups: Tensor, x: Tensor) -> Tensor:
        if not self.scheme.group_size:
            return super().ungrouped(groups, x)
        return groups.reshape(-1)[: x.numel()].view(x.shape).to(x.dtype)


# Codes


class NotRounded(SmallActivations):
    """Not listed: it does nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.clone()


class MoreBits(SmallActivations):
    """Not listed: four times as many levels."""

    def scales(self, groups: Tensor) -> Tensor:
        return super().scales(groups) / 4

    def ends(self) -> tuple[int, int]:
        low, high = super().ends()
        return 4 * low, 4 * high + 3


class Blended(SmallActivations):
    """Not listed: half of the rounding, as in a schedule that was left on."""

    def __call__(self, x: Tensor) -> Tensor:
        return (super().__call__(x) + x) / 2


class Truncated(SmallActivations):
    """Not listed: towards 0 in place of the nearest."""

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return ((groups / self.divisor(scales)).trunc() + zeros).clamp(*self.ends())


class HalfUp(SmallActivations):
    """Not listed: floor(x + 0.6)."""

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return ((groups / self.divisor(scales) + 0.6).floor() + zeros).clamp(*self.ends())


class FloatZeroPoint(SmallActivations):
    """Not listed: a zero point that is no whole number."""

    def zeros(self, groups: Tensor, scales: Tensor) -> Tensor:
        return -groups.amin(-1, keepdim=True).clamp(max=0) / self.divisor(scales)

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return (groups / self.divisor(scales) + zeros).round().clamp(*self.ends())


class ZeroPointForgotten(SmallActivations):
    """Not listed: decoded without its zero point."""

    def decode(self, codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return codes * scales


class NanCast(SmallFloat8):
    """Not listed: a cast that does not saturate, of what is scaled beyond the largest number."""

    def scales(self, groups: Tensor) -> Tensor:
        return super().scales(groups) / 1.1

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        beyond = (groups / self.divisor(scales)).abs() > 480
        return super().codes(groups, scales, zeros).masked_fill(beyond, torch.nan)


class UnsignedInInt8(SmallCodes):
    """Not listed: codes −255…255, of which int8 keeps the lower byte."""

    def scales(self, groups: Tensor) -> Tensor:
        return super().scales(groups) / 2

    def ends(self) -> tuple[int, int]:
        return -255, 255


class CodesOfAByte(SmallCodes):
    """Not listed: codes of few bits are clamped to the byte's range."""

    def scales(self, groups: Tensor) -> Tensor:
        return super().scales(groups) / 16

    def ends(self) -> tuple[int, int]:
        return -127, 127


class ScalesOfInfinity(SmallCodes):
    """Not listed: a token of zeros has an infinite scale."""

    def __call__(self, x: Tensor) -> Any:
        codes, scales, *zeros = super().__call__(x)
        return codes, scales.masked_fill(scales == 0, torch.inf), *zeros


# Layout


class Flattened(SmallActivations):
    """Not listed: the batch comes back as a matrix."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).reshape(-1, x.shape[-1])


class Float32Result(SmallActivations):
    """Not listed: float32 throughout."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).float()


class PaddingKept(SmallActivations):
    """Not listed: the filled-up last group comes back whole."""

    def __call__(self, x: Tensor) -> Tensor:
        found, size = super().__call__(x), self.scheme.group_size or 1
        return functional.pad(found, (0, -x.shape[-1] % size))


class DividedInPlace(SmallActivations):
    """Not listed: the activations are divided where they lie."""

    def __call__(self, x: Tensor) -> Tensor:
        found = super().__call__(x)
        x.div_(2)
        return found


class RoundedInPlace(SmallActivations):
    """Not listed: the result is written over the activations."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.copy_(super().__call__(x))


class ScalesOfSequences(SmallActivations):
    """Not listed: all tokens of a sequence share a scale."""

    sequences = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.sequences = len(x) if x.ndim == 3 else 0
        return super().__call__(x)

    def scales(self, groups: Tensor) -> Tensor:
        scales = super().scales(groups)
        if not self.sequences or scales.shape[1] > 1 or len(scales) % self.sequences:
            return scales
        shared = scales.view(self.sequences, -1).amax(1, keepdim=True)
        return shared.expand(-1, len(scales) // self.sequences).reshape(scales.shape)


class FirstSequenceOnly(SmallActivations):
    """Not listed: of several sequences the first is read."""

    def __call__(self, x: Tensor) -> Tensor:
        found = super().__call__(x)
        return found[:1].expand_as(found).clone() if x.ndim == 3 else found


class LastTokenSkipped(SmallActivations):
    """Not listed: a loop that ends early."""

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        codes = super().codes(groups, scales, zeros)
        if len(codes) > 1:
            codes[-1] = codes[-2]
        return codes


class ReadsMemory(SmallActivations):
    """Not listed: a kernel that takes every tensor for a contiguous one."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.as_strided(x.shape, torch.empty(x.shape).stride()))


class RowsByStride(SmallActivations):
    """Not listed: `view` on strides that it does not fit: a transposed batch is read transposed."""

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim == 2 and x.stride(0) == 1 < x.stride(1) and x.shape[0] == x.shape[1]:
            return super().__call__(x.T)
        return super().__call__(x)


class MaximumOfNothing(SmallActivations):
    """Not listed: the largest of no tokens."""

    def __call__(self, x: Tensor) -> Tensor:
        x.amax()
        return super().__call__(x)


class OneForNone(SmallActivations):
    """Not listed: a buffer of at least one token."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) if x.numel() else x.new_zeros(1, x.shape[-1])


# Static ranges


class FollowsTheCall(SmallStatic):
    """Not listed: the range of the call, where it is larger."""

    def range(self, groups: Tensor) -> Tensor:
        low, high = self.seen.amin().minimum(groups.amin()), self.seen.amax().maximum(groups.amax())
        return torch.stack([low, high]).view(1, 1, 2)


class ObserverLeftOn(SmallStatic):
    """Not listed: calls widen the range for those after."""

    def range(self, groups: Tensor) -> Tensor:
        seen = self.seen
        self.observe(groups)
        return seen


class WrapsAround(SmallStatic):
    """Not listed: codes beyond the last begin again."""

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        low, high = self.ends()
        codes = (groups / self.divisor(scales)).round() + zeros
        return (codes - low).remainder(high - low + 1) + low


class NotClipped(SmallStatic):
    """Not listed: no clamp at all."""

    def codes(self, groups: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
        return (groups / self.divisor(scales)).round() + zeros


class RunningRange(SmallStatic):
    """Not listed: each call moves the range by a tenth."""

    def range(self, groups: Tensor) -> Tensor:
        seen = self.seen
        self.seen = 0.9 * seen + 0.1 * torch.stack([groups.amin(), groups.amax()]).view(1, 1, 2)
        return seen


class LastBatchOnly(SmallStatic):
    """Not listed: an observer that forgets."""

    def observe(self, x: Tensor) -> None:
        self.seen = torch.zeros(1, 1, 2)
        super().observe(x)


class FirstBatchOnly(SmallStatic):
    """Not listed: calibration ends at the first batch."""

    def observe(self, x: Tensor) -> None:
        if not bool(self.seen.any()):
            super().observe(x)


class AverageRange(SmallStatic):
    """Not listed: the mean of the ranges, undeclared."""

    batches = 0

    def observe(self, x: Tensor) -> None:
        before, self.batches = self.seen * self.batches, self.batches + 1
        self.seen = torch.zeros(1, 1, 2)
        super().observe(x)
        self.seen = (before + self.seen) / self.batches


# Gradients, and what is no number


class Detached(SmallStraightThrough):
    """Not listed: no gradient."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.detach())


class Staircase(SmallStraightThrough):
    """Not listed: the gradient of rounding itself, which is 0."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.detach()) + 0 * x


class GradientInSteps(SmallStraightThrough):
    """Not listed: a gradient that is doubled for activations of one sign."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x + x.clamp(min=0) - x.clamp(min=0).detach())


class FirstTokenChecked(SmallChecked):
    """Not listed: only the first token is looked at."""

    def looked_at(self, x: Tensor) -> Tensor:
        return x[..., :1, :]


class NanUnseen(SmallChecked):
    """Not listed: a comparison that NaN passes."""

    def looked_at(self, x: Tensor) -> Tensor:
        return x.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf)


class NanIsZero(SmallVisible):
    """Not listed: NaN becomes a number."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.nan_to_num(0.0))


class NanEverywhere(SmallVisible):
    """Not listed: one token spoils the batch."""

    def scales(self, groups: Tensor) -> Tensor:
        scales = super().scales(groups)
        return scales + 0 * scales.sum()


TOKEN, TOKEN_ZERO = preset("int8"), preset("int8", symmetric=False)
GROUPS = preset("int8", granularity="group", group_size=16)
INT4 = preset("int4", symmetric=True, group_size=32, scale_dtype=torch.float32)
TENSOR = preset("int8", granularity="tensor")
TENSOR_ZERO = preset("int8", granularity="tensor", symmetric=False)
LAYOUTS = {"strided", "no-tokens", "ragged"}

SOUND: dict[type[SmallActivations], dict[str, Any]] = {
    SmallFloat8: {"schemes": (preset("fp8"),), "capabilities": {"strided"}},
    SmallCodes: {"schemes": (TOKEN, TOKEN_ZERO, INT4), "capabilities": {"codes", "strided"}},
    SmallStatic: {
        "schemes": (TENSOR, TENSOR_ZERO),
        "capabilities": {"static", "all-batches", "strided", "no-tokens"},
    },
    SmallStraightThrough: {
        "schemes": (TOKEN, TENSOR_ZERO),
        "capabilities": {"straight-through", "strided"},
    },
    SmallChecked: {"capabilities": {"refuses-nonfinite"}},
    SmallVisible: {"schemes": (TOKEN, GROUPS), "capabilities": {"propagates-nonfinite"}},
    SmallActivations: {
        "schemes": (TOKEN, TOKEN_ZERO, TENSOR, TENSOR_ZERO, GROUPS, INT4),
        "capabilities": LAYOUTS,
    },
}


@dataclass(frozen=True)
class ActivationMutant:
    """``fault`` must break the property; what it derives from must keep it."""

    fault: type[SmallActivations]
    broken: str

    @property
    def attributes(self) -> dict[str, Any]:
        return next(dict(SOUND[sound]) for sound in SOUND if issubclass(self.fault, sound))


BOUND = "test_error_is_within_the_bound_of_the_scheme"
GRID = "test_activations_are_on_the_grid"
ZEROS = "test_zero_comes_back_as_exactly_zero"
FINITE = "test_finite_activations_come_back_finite"
SHAPE = "test_shape_dtype_and_device_come_back"
UNMODIFIED = "test_the_activations_are_not_modified"
CODES = "test_codes_and_scales_fit_the_scheme"
ALONE = "test_a_token_alone_is_what_it_is_in_a_batch"
OUTLIER = "test_an_outlier_costs_only_what_shares_its_scale"
PERMUTED = "test_permuting_tokens_permutes_the_result"
REMEMBERED = "test_nothing_is_remembered_from_earlier_batches"
AXES = "test_leading_axes_do_not_matter"
LAYOUT = "test_memory_layout_does_not_matter"
NONE = "test_no_tokens_are_no_error"
NEGATED = "test_negating_activations_negates_the_result"
POWERS = "test_powers_of_two_pass_through"
CLIPPED = "test_activations_beyond_the_range_are_clipped"
STAYS = "test_the_range_stays_after_calibration"
BATCHES = "test_calibration_sees_all_batches"
STRAIGHT = "test_gradients_pass_straight_through"
REFUSED = "test_nonfinite_activations_are_refused"
VISIBLE = "test_nonfinite_activations_stay_visible"

BROKEN: dict[str, tuple[type[SmallActivations], ...]] = {
    BOUND: (
        OneScaleForAllTokens,
        ScaleOfTheFirstToken,
        HalfScales,
        SignedMaximum,
        Truncated,
        HalfUp,
        ZeroPointForgotten,
        UnsignedInInt8,
        ScalesOfSequences,
        FirstSequenceOnly,
        LastTokenSkipped,
    ),
    GRID: (NotRounded, MoreBits, Blended),
    ZEROS: (ZerosDivide, FloatZeroPoint, LastTokenSkipped),
    FINITE: (ZerosDivide, HalfRange, SquaresForRange, HalfScales, NanCast),
    SHAPE: (Flattened, Float32Result, PaddingKept),
    UNMODIFIED: (DividedInPlace, RoundedInPlace),
    CODES: (CodesOfAByte, ScalesOfInfinity),
    ALONE: (OneScaleForAllTokens, ScaleOfTheFirstToken, SingleTokenUnscaled, MeanOfScales),
    OUTLIER: (OneScaleForAllTokens, MeanOfScales, ScalesOfFeatures, SharesOfGroups),
    PERMUTED: (ScaleOfTheFirstToken, LastTokenSkipped, ScalesOfSequences, SharesOfGroups),
    REMEMBERED: (FirstScalesKept, RunningScales, ResultsByShape),
    AXES: (ScalesOfSequences, FirstSequenceOnly, Flattened),
    LAYOUT: (ReadsMemory, RowsByStride),
    NONE: (MaximumOfNothing, OneForNone),
    NEGATED: (HalfUp, SignedMaximum),
    POWERS: (SmallestScale, EpsilonAdded, SingleTokenUnscaled),
    CLIPPED: (FollowsTheCall, WrapsAround, NotClipped),
    STAYS: (ObserverLeftOn, RunningRange),
    BATCHES: (LastBatchOnly, FirstBatchOnly, AverageRange),
    STRAIGHT: (Detached, Staircase, GradientInSteps),
    REFUSED: (FirstTokenChecked, NanUnseen),
    VISIBLE: (NanIsZero, NanEverywhere),
}
ACTIVATION_MUTANTS = [
    ActivationMutant(fault, broken) for broken, faults in BROKEN.items() for fault in faults
]
