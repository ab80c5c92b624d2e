"""ActivationQuantizerSuite: are activations rounded as their scheme says, token by token?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, ClassVar, cast

import pytest
import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, preset
from torch import Tensor

from ..base import Suite, requires
from ..properties import for_all, tried
from ..tally import each_case, leave_out
from .activations import (
    ActivationTrial,
    MakeActivationQuantizer,
    StaticActivationQuantizer,
    activation_traps,
)
from .grids import bounds, group_extremes, group_ids, near_tie
from .trials import (
    claimed_grid,
    is_mirrored,
    plainly_scaled,
    require_near,
    require_same,
    require_within,
)
from .weights import Accepted, WeightCase, one_of_each, strided_views, weight_cases, weight_traps

on_batches = tried("make_activation_quantizer")  # a property of an `ActivationTrial`


def _split(scheme: QuantizationScheme) -> bool:
    """Tokens have scales of their own."""
    return scheme.granularity is not Granularity.TENSOR


def _activations(case: WeightCase) -> WeightCase:
    return replace(case, noun="activations")


class ActivationQuantizerSuite(Suite):
    """Properties of activation quantizers, for every scheme of ``schemes``.

    Give a fixture ``make_activation_quantizer``: a `MakeActivationQuantizer`. A scheme per channel
    of axis 0 is one per token. What a scheme leaves open, an attribute ``grid`` of a quantizer says
    (`grids.Grid`). Class attributes say what is tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``schemes`` | int8 per token | the schemes that quantizers are made for |
    | ``dtypes`` | float32, float16, bfloat16 | dtypes of activations |
    | ``ranks`` | (2, 3) | numbers of axes of activations |
    | ``shortest_side`` | 1 | the least number of features, and of tokens in drawn cases |
    | ``exact_tokens`` | True | False: a token alone may be rounded otherwise at near-ties |
    | ``examples`` | 25 | drawn cases of a property |

    Quantizers are dynamic, unless "static" is claimed: then each is calibrated by ``observe``, and
    schemes are per tensor.
    """

    topic = "activation_quantizer"
    fixture = "make_activation_quantizer"
    fixture_returns = "a callable: QuantizationScheme -> activation quantizer"
    offers = {  # noqa: RUF012  # read only
        "codes": "a call gives (codes, scales) or (codes, scales, zero points)",
        "static": "observe(x) calibrates by the least and largest activation; calls clip to that",
        "all-batches": "after several observe(x) the range is that of all batches together",
        "ragged": "the last group of a token may be shorter than group_size",
        "strided": "activations need not be contiguous",
        "no-tokens": "a batch without tokens comes back as it is",
        "straight-through": "gradients pass where nothing is clipped",
        "refuses-nonfinite": "NaN or infinity raises ValueError",
        "propagates-nonfinite": "NaN or infinity comes back as such, other tokens as ever",
    }
    methods = {"static": ("observe",)}  # noqa: RUF012  # read only
    schemes: ClassVar[Sequence[QuantizationScheme]] = (preset("int8"),)
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.float16, torch.bfloat16)
    ranks: ClassVar[Collection[int]] = (2, 3)
    shortest_side: ClassVar[int] = 1
    exact_tokens: ClassVar[bool] = True
    examples: ClassVar[int] = 25

    def made_from(self, implementation: Any) -> Any:
        return implementation(self.schemes[0])

    def first_cases(self, implementation: Any) -> Iterator[tuple[str, Callable[[], object]]]:
        for case in map(_activations, one_of_each(self.schemes, self._accepted)):
            yield case.kind, partial(ActivationTrial, implementation, case, self._static)

    # What comes back

    @on_batches()
    def test_error_is_within_the_bound_of_the_scheme(self, trial: ActivationTrial) -> None:
        """Each activation comes back within half a step of where it was.

        The step is that of its own token, group or tensor. Usual causes: one scale for all tokens,
        the first token's scale for the others, a range in float16 that overflows, truncation for
        rounding, a zero point that is clamped.
        """
        require_within(trial.rows, trial.rounded_rows, trial.allowed, "activation")

    @on_batches()
    def test_activations_are_on_the_grid(self, trial: ActivationTrial) -> None:
        """Each is a whole number of steps, or a level of the code book, of its own scale.

        Held where scales are far from the ends of their dtype. Usual causes: activations that are
        not rounded at all, other bits than declared, blends with the float activations.
        """
        grid, allowed = trial.grid, trial.allowed
        if grid.scale_stretch != 1:  # scales are not known from the activations
            leave_out()
            return
        scale = allowed.scale.where(allowed.scale > 0, 1.0)
        steps = (trial.rounded_rows.double() - allowed.offset) / scale
        if grid.levels is None:
            away = (steps - steps.round()).abs()
        else:
            levels = torch.tensor(grid.levels, dtype=torch.float64)
            away = (steps[..., None] - levels).abs().amin(-1)
        eps = [torch.finfo(d).eps for d in (trial.scheme.scale_dtype, trial.x.dtype)]
        eps += [8 * torch.finfo(grid.compute_dtype).eps]
        slack = sum(eps) * (steps.abs() + allowed.offset.abs() / scale)
        output = torch.finfo(trial.x.dtype)
        slack = slack + output.smallest_normal * output.eps / scale  # of subnormal results
        off = (away - slack).where(plainly_scaled(allowed, trial.scheme), 0.0)
        assert bool((off <= 0).all()), (
            f"{steps.flatten()[off.argmax()].item():.9g} steps is no level"
        )

    @on_batches()
    def test_zero_comes_back_as_exactly_zero(self, trial: ActivationTrial) -> None:
        """Padding, and what an activation function cut off, must stay 0.

        A grid without a level at 0 has to keep groups of zeros alone. Usual causes: 0/0 in a token
        of zeros, an offset in place of a whole zero point, a zero point of another token.
        """
        zeros = trial.rows == 0
        if not trial.grid.has_zero:
            low, high = group_extremes(trial.rows, trial.scheme)
            zeros = (low == 0) & (high == 0)
        wrong = trial.rounded_rows[zeros]
        assert not bool((wrong != 0).any()), f"0 came back as {wrong[wrong != 0][0].item()}"

    @on_batches()
    def test_finite_activations_come_back_finite(self, trial: ActivationTrial) -> None:
        """One NaN spreads over the sequence, one infinity over the token.

        Usual causes: scale 0 for a token of zeros, a range, sum or square that leaves float16, a
        cast to float8 beyond its largest number.
        """
        bad = ~torch.isfinite(trial.rounded_rows)
        assert not bool(bad.any()), f"{int(bad.sum())} of {bad.numel()} activations not finite"

    @on_batches()
    def test_shape_dtype_and_device_come_back(self, trial: ActivationTrial) -> None:
        """Usual causes: a flattened batch, padding that is not cut off, float32 throughout."""
        rounded = trial.rounded
        assert rounded.shape == trial.x.shape, f"shape {tuple(rounded.shape)}"
        assert rounded.dtype is trial.x.dtype, f"{trial.x.dtype} became {rounded.dtype}"
        assert rounded.device == trial.x.device

    @on_batches()
    def test_the_activations_are_not_modified(self, trial: ActivationTrial) -> None:
        """The residual stream goes on with them. Usual causes: in-place division or clamping."""
        assert torch.equal(trial.case.weight, trial.x), "rounding changed the activations given"

    @requires("codes")
    @on_batches()
    def test_codes_and_scales_fit_the_scheme(self, trial: ActivationTrial) -> None:
        """Codes are in the range of their bits, or levels of the code book; scales are finite.

        Usual causes: unsigned codes in a signed dtype, a clamp at another width's range, 128.
        """
        codes, scales = trial.result[:2]
        values, bits = codes.to(torch.float64), trial.scheme.bits
        assert codes.shape == trial.x.shape, f"codes of shape {tuple(codes.shape)}"
        if trial.grid.levels is not None:
            fit = torch.isin(values, torch.tensor(trial.grid.levels, dtype=torch.float64))
            assert bool(fit.all()), f"{values[~fit][0].item()} is no level of the code book"
        else:
            assert torch.equal(values, values.round()), "a code is no whole number"
            low, high = float(values.min()), float(values.max())
            signed = -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)
            unsigned = low >= 0 and high < 2**bits
            assert signed or unsigned, f"codes {low:g}…{high:g} do not fit {bits} bits"
        assert bool(torch.isfinite(scales).all()), "a scale is not finite"
        assert trial.grid.signed_scales or not bool((scales < 0).any()), "a scale is negative"

    # Independence

    def test_a_token_alone_is_what_it_is_in_a_batch(
        self, make_activation_quantizer: MakeActivationQuantizer
    ) -> None:
        """Decoding rounds one token where the prompt rounded many.

        Held of scales per token or group, and of static ones. Usual causes: one scale for a whole
        batch or sequence, a path for single tokens with another scale.
        """

        def holds(trial: ActivationTrial) -> None:
            for row in {0, len(trial.rows) // 2, len(trial.rows) - 1}:
                token = trial.rows[row : row + 1]
                alone = trial.again(token.clone().view(*[1] * (trial.x.ndim - 1), -1))
                expected = trial.rounded_rows[row : row + 1]
                if self.exact_tokens:
                    require_same(alone.reshape(1, -1), expected)
                    continue
                eps = torch.finfo(trial.grid.compute_dtype).eps + torch.finfo(expected.dtype).eps
                tie = near_tie(trial.rows, trial.scheme, trial.grid)[row : row + 1]
                require_near(alone.reshape(1, -1), expected, eps, tie)

        self._hold(make_activation_quantizer, holds, lambda s: self._static or _split(s))

    def test_an_outlier_costs_only_what_shares_its_scale(
        self, make_activation_quantizer: MakeActivationQuantizer
    ) -> None:
        """A token or group a thousand times larger leaves the others' results alone, bit for bit.

        Usual causes: a maximum over too much, scales on the wrong axis, groups that run across
        tokens, an average of scales.
        """

        def holds(trial: ActivationTrial) -> None:
            ids = group_ids(trial.rows.shape, trial.scheme)
            limit = min(torch.finfo(d).max for d in (trial.x.dtype, trial.scheme.scale_dtype))
            for group in {0, int(ids.max())}:
                larger = (trial.rows.double() * 1000).clamp(-limit / 16, limit / 16)
                changed = trial.rows.where(ids != group, larger.to(trial.x.dtype))
                found = trial.of(changed.view(trial.x.shape)).rounded_rows
                require_same(found[ids != group], trial.rounded_rows[ids != group])

        kept = self._dynamic(_split)
        self._hold(make_activation_quantizer, holds, kept, torch.float32)

    @on_batches()
    def test_permuting_tokens_permutes_the_result(self, trial: ActivationTrial) -> None:
        """No token has a place of honour. Usual causes: the first token's scale for all of them,
        padding that is found by its place, a stride of scales that is off by one."""
        order = torch.arange(len(trial.rows)).roll(1).flip(0)
        found = trial.of(trial.rows[order].view(trial.x.shape))
        require_same(found.rounded_rows, trial.rounded_rows[order])

    def test_nothing_is_remembered_from_earlier_batches(
        self, make_activation_quantizer: MakeActivationQuantizer
    ) -> None:
        """A dynamic quantizer that rounded others does to these what a fresh one does.

        Usual causes: scales kept from the first call, running ranges, results cached by shape,
        buffers that are not cleared.
        """

        def holds(trial: ActivationTrial) -> None:
            used, other = trial.fresh(), trial.x.flip(-1) / 4 + 1
            expected = trial.of(other).rounded
            require_same(trial.again(other.clone(), used), expected)
            require_same(trial.again(trial.x.clone(), used), trial.rounded)
            require_same(trial.again(other.clone(), used), expected)

        self._hold(make_activation_quantizer, holds, self._dynamic())

    # Layout

    @on_batches()
    def test_leading_axes_do_not_matter(self, trial: ActivationTrial) -> None:
        """[T, K], [1, T, K] and [T, 1, K] are the same tokens.

        Usual causes: scales per sequence or per place in the sequence, a batch of which the first
        sequence is read.
        """
        tokens, features = trial.rows.shape
        shapes = [(tokens, features), (1, tokens, features), (tokens, 1, features)]
        others = [shape for shape in shapes if len(shape) in self.ranks and shape != trial.x.shape]
        if not others:
            leave_out()
        for shape in others:
            found = trial.of(trial.rows.clone().view(shape))
            assert found.rounded.shape == shape, f"{shape} became {tuple(found.rounded.shape)}"
            require_same(found.rounded_rows, trial.rounded_rows)

    @requires("strided")
    @on_batches()
    def test_memory_layout_does_not_matter(self, trial: ActivationTrial) -> None:
        """Transposed and sliced views give what their contiguous copies give.

        Heads are transposed, fused projections are sliced. Usual causes: a kernel that reads
        memory in order, `view` on strides that it does not fit.
        """
        for view in strided_views(trial.x):
            require_same(trial.of(view).rounded, trial.rounded)

    @requires("no-tokens")
    @on_batches()
    def test_no_tokens_are_no_error(self, trial: ActivationTrial) -> None:
        """An expert may get none. Usual causes: the maximum of nothing, a division by a count."""
        empty = trial.x[..., :0, :]
        found = trial.again(empty.clone())
        assert found.shape == empty.shape, f"{tuple(empty.shape)} became {tuple(found.shape)}"
        assert found.dtype is empty.dtype, f"{empty.dtype} became {found.dtype}"

    # Symmetries

    def test_negating_activations_negates_the_result(
        self, make_activation_quantizer: MakeActivationQuantizer
    ) -> None:
        """A symmetric grid has no preferred sign (ties between levels aside).

        Usual causes: rounding half up, a maximum in place of an absolute one, −8…7 undeclared.
        """

        def mirrored(scheme: QuantizationScheme) -> bool:
            return scheme.symmetric and is_mirrored(make_activation_quantizer, scheme)

        def holds(trial: ActivationTrial) -> None:
            tie = near_tie(trial.rows, trial.scheme, trial.grid)
            require_same(trial.of(-trial.x).rounded_rows, -trial.rounded_rows, excused=tie)

        self._hold(make_activation_quantizer, holds, mirrored)

    @on_batches(dtype=torch.float32)
    def test_powers_of_two_pass_through(self, trial: ActivationTrial) -> None:
        """Scaling by a power of two rounds nothing, so codes stay and scales follow.

        Held where scales are far from the ends of their dtype. Usual causes: an absolute epsilon
        in a scale or a divisor, thresholds of outliers, fixed scales.
        """
        fine = plainly_scaled(trial.allowed, trial.scheme)
        for exponent in (-3, 2):
            scaled = trial.x * 2.0**exponent
            if torch.equal(scaled * 2.0**-exponent, trial.x):  # the dtype holds it
                expected = trial.rounded_rows * 2.0**exponent
                require_same(trial.of(scaled).rounded_rows, expected, excused=~fine)

    # Static ranges

    @requires("static")
    @on_batches()
    def test_activations_beyond_the_range_are_clipped(self, trial: ActivationTrial) -> None:
        """Once calibrated, what lies beyond comes back as the end of the range; the rest as ever.

        The last code may lie a step beyond the range, as −128 does where 127 is the absmax. Usual
        causes: codes that wrap around, scales that follow the call, a clamp at other codes.
        """
        limit = torch.finfo(trial.x.dtype).max / 16
        beyond = (trial.rows.double() * 8).clamp(-limit, limit).to(trial.x.dtype)
        low, high = (end.to(trial.x.dtype) for end in group_extremes(trial.rows, trial.scheme))
        if not trial.grid.zero_is_level:
            low, high = trial.rows.amin(), trial.rows.amax()
        if trial.scheme.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        clipped = torch.cat([trial.rows, beyond.clamp(low, high)])
        if bool((low >= high).all()) or float(trial.rows.double().abs().max()) > limit:
            leave_out()  # no range, or no room beyond it
            return
        given = torch.cat([trial.rows, beyond])
        found = trial.again(given.view(*[1] * (trial.x.ndim - 2), *given.shape))
        allowed = bounds(clipped, trial.scheme, trial.grid)
        further = allowed.scale.where(clipped != given, 0.0)
        allowed = replace(allowed, error=allowed.error + further)
        require_within(clipped, found.reshape(given.shape), allowed, "clipped activation")

    @requires("static")
    @on_batches()
    def test_the_range_stays_after_calibration(self, trial: ActivationTrial) -> None:
        """Larger and smaller batches change nothing for the next one.

        Usual causes: an observer that is still on, running averages, ranges that only grow.
        """
        limit = torch.finfo(trial.x.dtype).max / 2
        for factor in (4, 0.25):
            trial.again((trial.x * factor + 1).clamp(-limit, limit))
            require_same(trial.again(trial.x.clone()), trial.rounded)

    @requires("static", "all-batches")
    @on_batches()
    def test_calibration_sees_all_batches(self, trial: ActivationTrial) -> None:
        """Two batches, in either order, calibrate as both in one do.

        Usual causes: only the last batch, or the first, an average of ranges.
        """
        small, large = trial.x / 4, trial.x
        found = []
        for batches in ([torch.cat([small, large], -2)], [small, large], [large, small]):
            quantizer = cast(StaticActivationQuantizer, trial.make(trial.case.scheme))
            for batch in batches:
                quantizer.observe(batch.clone())
            found.append(trial.again(trial.x.clone(), quantizer))
        for rounded in found[1:]:
            require_same(rounded, found[0])

    # Gradients, and what is no number

    @requires("straight-through")
    @on_batches()
    def test_gradients_pass_straight_through(self, trial: ActivationTrial) -> None:
        """More than a step inside the range, the gradient is the identity.

        Usual causes: a detach, round without an estimator (0 throughout), a gradient that is
        divided by the scale.
        """
        x = trial.x.clone().requires_grad_()
        rounded = trial.again(x)
        upstream = (torch.arange(x.numel()).view(x.shape) % 7 - 3.5).to(x.dtype)
        assert rounded.requires_grad, "no gradient reaches the activations"
        (gradient,) = torch.autograd.grad(rounded, x, upstream, allow_unused=True)
        assert gradient is not None, "no gradient reaches the activations"
        assert gradient.dtype is x.dtype
        low, high = group_extremes(trial.rows, trial.scheme)
        if trial.scheme.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        allowed = trial.allowed
        inside = (trial.rows > low + allowed.scale) & (trial.rows < high - allowed.scale)
        inside &= plainly_scaled(allowed, trial.scheme)
        # Twice rounded where the gradient passes a division and a product by the scale.
        expected = upstream.reshape(trial.rows.shape)
        off = (gradient.reshape(expected.shape) - expected).abs()
        wrong = inside & ~(off <= 2 * torch.finfo(x.dtype).eps * expected.abs())
        assert not bool(wrong.any()), f"{int(wrong.sum())} of {int(inside.sum())} gradients wrong"

    @requires("refuses-nonfinite")
    def test_nonfinite_activations_are_refused(
        self, make_activation_quantizer: MakeActivationQuantizer
    ) -> None:
        """A NaN that is cast to an integer is some code. Usual causes: a check of the maximum
        alone, a check of the first token."""
        for trial, x, _ in each_case(self._spoilt(make_activation_quantizer)):
            with pytest.raises(ValueError, match=r"(?i)nan|inf|finite"):
                trial.again(x)

    @requires("propagates-nonfinite")
    def test_nonfinite_activations_stay_visible(
        self, make_activation_quantizer: MakeActivationQuantizer
    ) -> None:
        """And they stay in their token, where tokens have scales of their own.

        Usual causes: a clamp that turns NaN into an end of the range, a cast to an integer, a
        range over all tokens.
        """
        for trial, x, token in each_case(self._spoilt(make_activation_quantizer)):
            found = trial.again(x.clone())
            assert not bool(torch.isfinite(found[~torch.isfinite(x)]).any()), "it became a number"
            if _split(trial.scheme) or self._static:
                others = torch.arange(len(trial.rows)) != token
                rows = found.reshape(trial.rows.shape)
                require_same(rows[others], trial.rounded_rows[others])

    # How properties are tried

    @property
    def _accepted(self) -> Accepted:
        ragged = "ragged" in self.capabilities
        return Accepted(self.dtypes, self.ranks, ragged, self.shortest_side)

    @property
    def _static(self) -> bool:
        return "static" in self.capabilities

    def _dynamic(
        self, only: Callable[[QuantizationScheme], bool] = lambda scheme: True
    ) -> Callable[[QuantizationScheme], bool]:
        return lambda scheme: not self._static and only(scheme)

    def _hold(
        self,
        make: MakeActivationQuantizer,
        holds: Callable[[ActivationTrial], None],
        only: Callable[[QuantizationScheme], bool] = lambda scheme: True,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Try the property on drawn batches and on the traps, of the schemes for which ``only``."""
        __tracebackhide__ = True

        def tried_on(case: WeightCase) -> None:
            given = replace(case, weight=case.weight.clone())
            holds(ActivationTrial(make, given, self._static))

        chosen = [scheme for scheme in self.schemes if only(scheme)]
        if dtype is not None and dtype not in self.dtypes:
            dtype = self.dtypes[0]
        accepted = self._accepted if dtype is None else replace(self._accepted, dtypes=[dtype])
        traps = chain.from_iterable(
            chain(
                weight_traps(scheme, accepted, claimed_grid(make(scheme), scheme)),
                activation_traps(scheme, accepted),
            )
            for scheme in chosen
        )
        if chosen:
            cases = weight_cases(chosen, accepted).map(_activations)
            named = ((name, _activations(case)) for name, case in traps)
            for_all(tried_on, cases, traps=named, examples=self.examples)

    def _spoilt(
        self, make: MakeActivationQuantizer
    ) -> Iterator[tuple[ActivationTrial, Tensor, int]]:
        """A plain trial, its batch with one value that is no number, and the token that has it."""
        for case in one_of_each(self.schemes, self._accepted):
            trial = ActivationTrial(make, case, self._static)
            for value in (math.nan, math.inf, -math.inf):
                for index in (0, trial.x.numel() - 1):
                    x = trial.x.clone()
                    x.view(-1)[index] = value
                    yield trial, x, index // trial.x.shape[-1]
