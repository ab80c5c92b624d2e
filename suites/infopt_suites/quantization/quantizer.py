"""QuantizerSuite: does a quantizer keep what its scheme promises?"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, cast

import pytest
import torch
from infopt_reference.quantization import PRESETS, Granularity, QuantizationScheme, mse
from torch import Tensor

from ..base import Suite, requires
from ..properties import EXAMPLES, for_all, tried
from ..tally import each_case, leave_out
from .grids import bounds, group_extremes, group_ids, near_tie
from .protocol import CodesShown, MakeQuantizer, ScalesShown, StateKept
from .trials import (
    Trial,
    claimed_bytes,
    claimed_grid,
    fineness,
    is_mirrored,
    kept_bytes,
    nearest_levels,
    plainly_scaled,
    require_near,
    require_same,
    require_within,
    scheme_families,
    singly_scaled,
)
from .weights import (
    Accepted,
    WeightCase,
    evenly_spread,
    one_of_each,
    row_lengths,
    strided_views,
    weight_cases,
    weight_traps,
)

on_weights = tried("make_quantizer")  # a property of a `Trial`


class QuantizerSuite(Suite):
    """Properties of weight-only quantizers, for every scheme of ``schemes``.

    Give a fixture ``make_quantizer``: a `protocol.MakeQuantizer`. What a scheme leaves open, an
    attribute ``grid`` of a quantizer says (`grids.Grid`). Class attributes say what is tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``schemes`` | all presets | the schemes that quantizers are made for |
    | ``dtypes`` | float32, float16, bfloat16 | dtypes of weights |
    | ``ranks`` | (1, 2, 3) | numbers of axes of weights |
    | ``shortest_side`` | 1 | the least length of an axis |
    | ``exact_groups`` | True | False: a group alone may be rounded otherwise than beside others |
    | ``examples`` | 40 | drawn cases of a property |

    Compiled kernels are a reason for groups that are not exact.
    """

    topic = "quantizer"
    fixture = "make_quantizer"
    fixture_returns = "a callable: QuantizationScheme -> quantizer"
    offers = {  # noqa: RUF012  # read only
        "codes": "codes(quantized) shows the integer codes in the weight's shape",
        "scales": "scales(quantized) shows one scale a group",
        "state": "state(quantized) is all that has to be kept, restore(state, quantized) reads it",
        "ragged": "the last group of a row may be shorter than group_size",
        "strided": "weights need not be contiguous",
        "refuses-nonfinite": "NaN or infinity in a weight raises ValueError",
        "propagates-nonfinite": "NaN or infinity in a weight comes back as such, in its place",
    }
    schemes: ClassVar[Sequence[QuantizationScheme]] = tuple(PRESETS.values())
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.float16, torch.bfloat16)
    ranks: ClassVar[Collection[int]] = (1, 2, 3)
    shortest_side: ClassVar[int] = 1
    exact_groups: ClassVar[bool] = True
    examples: ClassVar[int] = EXAMPLES
    methods = {  # noqa: RUF012  # read only
        "": ("quantize", "dequantize"),
        "codes": ("codes",),
        "scales": ("scales",),
        "state": ("state", "restore"),
    }

    def made_from(self, implementation: Any) -> Any:
        return implementation(self.schemes[0])

    def first_cases(self, implementation: Any) -> Iterator[tuple[str, Callable[[], object]]]:
        for case in one_of_each(self.schemes, self._accepted):
            yield case.kind, partial(Trial, implementation, case)

    # The round trip

    @on_weights()
    def test_error_is_within_the_bound_of_the_scheme(self, trial: Trial) -> None:
        """Each weight comes back within half a step of where it was.

        Usual causes: a scale that underflows or leaves 0 out of the range, a zero point that is
        truncated or clamped, truncation for rounding, the last group's scale taken from garbage,
        codes packed or decoded under another convention, a scale that decoding forgets.
        """
        allowed = bounds(trial.weight, trial.scheme, trial.grid)
        require_within(trial.weight, trial.restored, allowed, "weight")

    @on_weights(subnormal_scales=True)
    def test_zero_comes_back_as_exactly_zero(self, trial: Trial) -> None:
        """Pruned weights, padding and dead channels must stay 0: products with them are skipped.

        A grid without a level at 0 has to keep groups of zeros alone.

        Usual causes: a zero point that is not rounded, 0/0 in a group of zeros, a code book
        without a 0.
        """
        zeros = trial.weight == 0
        if not trial.grid.has_zero:
            low, high = group_extremes(trial.weight, trial.scheme)
            zeros = (low == 0) & (high == 0)
        wrong = trial.restored[zeros]
        assert not bool((wrong != 0).any()), f"0 came back as {wrong[wrong != 0][0].item()}"

    @on_weights(subnormal_scales=True)
    def test_finite_weights_come_back_finite(self, trial: Trial) -> None:
        """One NaN spreads over a whole activation.

        Usual causes: scale 0 for a group of zeros or of tiny weights, a cast that overflows to
        infinity or NaN, uninitialised padding.
        """
        restored = trial.restored
        bad = ~torch.isfinite(restored)
        assert not bool(bad.any()), f"{int(bad.sum())} of {bad.numel()} weights not finite"

    @on_weights()
    def test_shape_dtype_and_device_come_back(self, trial: Trial) -> None:
        """Usual causes: padding that is not cut off again, a flattened axis, float32 throughout."""
        restored = trial.restored
        assert restored.shape == trial.weight.shape
        assert restored.dtype is trial.weight.dtype
        assert restored.device == trial.weight.device

    @on_weights()
    def test_the_weight_is_not_modified(self, trial: Trial) -> None:
        """The caller may still need it: tied weights, a second format, an error metric.

        Usual causes: in-place division or clamping on a view of the input.
        """
        assert torch.equal(trial.case.weight, trial.weight), "quantizing changed the weight itself"

    @on_weights(singly_scaled, torch.float32)
    def test_quantizing_again_changes_nothing(self, trial: Trial) -> None:
        """Levels are where a weight goes, so a weight on a level stays.

        Held in float32, of groups whose ends are levels. Usual causes: levels between which the
        decoder and the encoder disagree, boundaries that are no midpoints, a one-sided shift.
        """
        if not trial.grid.idempotent:
            leave_out()
            return
        twice = trial.of(trial.restored)
        low, high = group_extremes(trial.weight, trial.scheme)
        new_low, new_high = group_extremes(trial.restored, trial.scheme)
        allowed = bounds(trial.weight, trial.scheme, trial.grid)
        kept = (new_low - low).abs() + (new_high - high).abs() <= allowed.scale / 4
        kept &= plainly_scaled(allowed, trial.scheme)
        # The new scale rounds anew: twice in storing, twice in the arithmetic.
        eps = torch.finfo(trial.scheme.scale_dtype).eps + torch.finfo(trial.weight.dtype).eps
        # Far from 0 that is relative to a difference of large numbers, and an offset counted
        # in steps takes it as many times.
        steps = trial.grid.steps * allowed.scale.where(allowed.scale > 0, math.inf)
        tolerance = 4 * eps * (high - low) * (1 + allowed.offset.abs() / steps)
        moved = (twice.restored.double() - trial.restored.double()).abs()
        assert not bool((kept & (moved > tolerance)).any()), (
            f"weights on levels moved by up to {moved[kept].max().item():.6g}"
        )

    @on_weights()
    def test_order_within_a_group_is_kept(self, trial: Trial) -> None:
        """Rounding is monotone. Usual causes: codes that wrap around, swapped nibbles, a code book
        in the order of its bit patterns, a sign lost in packing."""
        restored = trial.restored.double().reshape(-1)
        ids = group_ids(trial.weight.shape, trial.scheme).reshape(-1)
        order = torch.argsort(trial.weight.double().reshape(-1), stable=True)
        order = order[torch.argsort(ids[order], stable=True)]
        same_group = ids[order].diff() == 0
        assert not bool((same_group & (restored[order].diff() < 0)).any()), (
            "of two weights in a group the larger came back smaller"
        )

    # Symmetries

    def test_negating_weights_negates_the_result(self, make_quantizer: MakeQuantizer) -> None:
        """A symmetric grid has no preferred sign (ties between levels aside).

        Usual causes: rounding half up, a range of −8…7 without saying so, one-sided ranges.
        """

        def mirrored(scheme: QuantizationScheme) -> bool:
            return scheme.symmetric and is_mirrored(make_quantizer, scheme)

        def holds(trial: Trial) -> None:
            tie = near_tie(trial.weight, trial.scheme, trial.grid)
            require_same(trial.of(-trial.weight).restored, -trial.restored, excused=tie)

        self._hold(make_quantizer, holds, mirrored)

    @on_weights(singly_scaled, torch.float32)
    def test_powers_of_two_pass_through(self, trial: Trial) -> None:
        """Scaling by a power of two rounds nothing, so codes stay and scales follow.

        Held where scales are far from the ends of their dtype. Usual causes: an absolute epsilon
        in a scale or a divisor, constants that suit weights of one size.
        """
        allowed = bounds(trial.weight, trial.scheme, trial.grid)
        fine = plainly_scaled(allowed, trial.scheme) & (trial.weight.abs() < 2.0**12)
        for exponent in (-3, 2):
            restored = trial.of(trial.weight * 2.0**exponent).restored
            require_same(restored, trial.restored * 2.0**exponent, excused=~fine)

    @on_weights(singly_scaled)
    def test_permuting_weights_permutes_the_result(self, trial: Trial) -> None:
        """What shares a scale may come in any order: rows of groups, channels, a tensor's weights.

        Usual causes: a scale read at the wrong index, a neighbour's bits, a loop that starts late.
        """
        scheme, weight = trial.scheme, trial.weight
        axis = scheme.axis if scheme.granularity is Granularity.CHANNEL else 0
        if scheme.granularity is Granularity.GROUP and weight.ndim == 1:
            leave_out()  # nothing but one row
            return
        order = torch.arange(weight.shape[axis]).roll(1).flip(0)
        restored = trial.of(weight.index_select(axis, order)).restored
        require_same(restored, trial.restored.index_select(axis, order))

    # Independence

    @on_weights(lambda s: s.granularity is Granularity.CHANNEL, torch.float32)
    def test_channels_do_not_influence_each_other(self, trial: Trial) -> None:
        """One channel a thousand times larger leaves the others' results alone, bit for bit.

        Usual causes: scales on the wrong axis (silent on square weights), an axis of −1 or 0 taken
        for another or for none, a maximum over too much.
        """
        axis = trial.scheme.axis
        for channel in {0, trial.weight.shape[axis] - 1}:
            changed = trial.weight.clone()
            changed.select(axis, channel).mul_(1000)
            restored = trial.of(changed).restored
            others = [i for i in range(trial.weight.shape[axis]) if i != channel]
            index = torch.tensor(others, dtype=torch.int64)
            expected = trial.restored.index_select(axis, index)
            require_same(restored.index_select(axis, index), expected)

    @on_weights(lambda s: singly_scaled(s) and s.granularity is Granularity.GROUP)
    def test_each_group_is_what_it_is_alone(self, trial: Trial) -> None:
        """A group quantized by itself, the short last one too, gives the same weights.

        Usual causes: a floored number of groups, padding that enters the range, groups that run
        over the end of a row, one dispatch branch that uses another table.
        """
        size, length = trial.scheme.group_size or 1, trial.weight.shape[-1]
        rows = trial.weight.reshape(-1, length)
        row = rows.shape[0] - 1
        for start in {0, (length - 1) // size * size}:
            part = rows[row, start : start + size]
            lone = part.view(*[1] * (trial.weight.ndim - 1), -1)
            alone = trial.of(lone.clone()).restored
            expected = trial.restored.reshape(-1, length)[row, start : start + size]
            if self.exact_groups:
                require_same(alone.reshape(-1), expected)
                continue
            eps = torch.finfo(trial.grid.compute_dtype).eps + torch.finfo(expected.dtype).eps
            tie = near_tie(trial.weight, trial.scheme, trial.grid).reshape(-1, length)
            require_near(alone.reshape(-1), expected, eps, tie[row, start : start + size])

    @on_weights()
    def test_nothing_is_remembered_from_earlier_weights(self, trial: Trial) -> None:
        """A quantizer that has seen other weights does to these what a fresh one does.

        Usual causes: buffers reused without being cleared, a cache keyed by shape, running ranges.
        """
        fresh = trial.restored
        used, other = trial.make(trial.scheme), trial.weight.flip(-1) / 4 + 1
        used.dequantize(used.quantize(other))
        quantized = used.quantize(trial.weight)
        used.dequantize(used.quantize(other))
        require_same(used.dequantize(quantized), fresh)

    @requires("strided")
    @on_weights()
    def test_memory_layout_does_not_matter(self, trial: Trial) -> None:
        """Transposed, sliced and expanded views give what their contiguous copies give.

        Usual causes: a kernel that reads memory in order, `view` on strides that it does not fit.
        """
        expected = trial.restored
        for view in strided_views(trial.weight):
            require_same(trial.of(view).restored, expected)

    # Statistics

    def test_rounding_is_unbiased(self, make_quantizer: MakeQuantizer) -> None:
        """Errors of evenly spread weights average out, and so do errors towards 0.

        Of a code book, those beyond the errors of its nearest levels.

        Within six standard errors, which chance exceeds once in 5e8; weights at an end that only
        one side of the grid has are not counted. Usual causes: truncation or
        floor for rounding, a half added before a floor, boundaries that are no midpoints.
        """
        for scheme in each_case(self.schemes):
            weight = evenly_spread(scheme, self._accepted)
            trial = Trial(make_quantizer, WeightCase(scheme, weight.to(self.dtypes[0])))
            allowed = bounds(trial.weight, scheme, trial.grid)
            exact = trial.weight.double()
            error, limits = trial.restored.double() - exact, allowed.error
            if scheme.symmetric and trial.grid.levels is None:
                counted = exact.abs() <= trial.grid.reach_of_both_sides * allowed.scale
                exact, error, limits = exact[counted], error[counted], limits[counted]
            elif singly_scaled(scheme) and trial.grid.scale_stretch == 1:
                # Cells of a code book are not centred on their levels.
                error = error - (nearest_levels(exact, allowed) - exact)
            # An error that is uniform between ±bound has a standard deviation of bound/√3.
            limit = 6 * float(limits.square().mean().sqrt()) / math.sqrt(3 * exact.numel())
            for what, mean in {
                "up": float(error.mean()),
                "away from 0": float((error * exact.sign()).mean()),
            }.items():
                assert abs(mean) <= limit, (
                    f"{scheme}: weights move {what} by {mean:.3g} on average, allowed {limit:.3g}"
                )

    def test_error_falls_with_bits(self, make_quantizer: MakeQuantizer) -> None:
        """Each further bit must help. Usual causes: a bit width that is ignored or hard-coded, a
        clamp at another width's range."""
        families = scheme_families(self.schemes, lambda s: s.bits, bits=8, codebook=None)
        for family in each_case(families):
            self._errors_fall(make_quantizer, family)

    def test_error_falls_with_finer_groups(self, make_quantizer: MakeQuantizer) -> None:
        """Scales of fewer weights fit them better. Usual causes: a group size or an axis that is
        ignored, one scale for all, groups along the wrong axis."""
        nested = [s for s in self.schemes if s.axis == 0]  # groups divide rows, not columns
        ignored = {"granularity": Granularity.TENSOR, "group_size": None}
        for family in each_case(scheme_families(nested, fineness, **ignored)):
            self._errors_fall(make_quantizer, family)

    @requires("refuses-nonfinite")
    def test_nonfinite_weights_are_refused(self, make_quantizer: MakeQuantizer) -> None:
        """A NaN that is cast to an integer is some code, and nobody will know.

        Usual causes: a check of the maximum alone, which a NaN passes where max(nan, x) is x.
        """
        for scheme, weight in each_case(self._spoilt()):
            with pytest.raises(ValueError, match=r"(?i)nan|inf|finite"):
                make_quantizer(scheme).quantize(weight)

    @requires("propagates-nonfinite")
    def test_nonfinite_weights_stay_visible(self, make_quantizer: MakeQuantizer) -> None:
        """A NaN that is cast to an integer is some code, and nobody will know.

        Usual causes: a clamp that turns NaN into an end of the range.
        """
        for scheme, weight in each_case(self._spoilt()):
            restored = Trial(make_quantizer, WeightCase(scheme, weight)).restored
            assert not bool(torch.isfinite(restored[~torch.isfinite(weight)]).any())

    # What is stored

    @requires("codes")
    @on_weights()
    def test_codes_fit_their_bits(self, trial: Trial) -> None:
        """At most 2^bits codes, all inside the range that they are stored in.

        Usual causes: clamping to the byte's range and masking afterwards, +2^(b−1) in a signed
        grid, the zero point added after the clamp.
        """
        codes = cast(CodesShown, trial.quantizer).codes(trial.quantized)
        assert codes.shape == trial.weight.shape
        assert not codes.is_floating_point(), f"codes are {codes.dtype}"
        low, high, bits = int(codes.min()), int(codes.max()), trial.scheme.bits
        signed = -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)
        unsigned = low >= 0 and high < 2**bits
        assert signed or unsigned, f"codes {low}…{high} do not fit {bits} bits"

    @requires("scales")
    @on_weights()
    def test_every_group_has_a_scale(self, trial: Trial) -> None:
        """As many scales as groups, the short last ones counted, finite; negative where declared.

        Usual causes: a floored division, scales on the wrong axis.
        """
        scales = cast(ScalesShown, trial.quantizer).scales(trial.quantized)
        groups = int(group_ids(trial.weight.shape, trial.scheme).max()) + 1
        assert scales.numel() == groups, f"{scales.numel()} scales for {groups} groups"
        assert bool(torch.isfinite(scales).all()), "a scale is not finite"
        negative = int((scales < 0).sum())
        assert trial.grid.signed_scales or not negative, f"{negative} scales are negative"

    @on_weights(lambda s: singly_scaled(s) and s.codebook is not None, torch.float32)
    def test_decoded_weights_are_levels_of_the_code_book(self, trial: Trial) -> None:
        """Every weight, divided by its group's scale, is in the table: for every block size.

        Usual causes: a dispatch branch with another table, a symmetric table of 15 levels.
        """
        if trial.grid.scale_stretch != 1:  # scales are not known from the weights
            leave_out()
            return
        allowed = bounds(trial.weight, trial.scheme, trial.grid)
        levels = torch.tensor(trial.grid.levels, dtype=torch.float64)
        steps = trial.restored.double() / allowed.scale.where(allowed.scale > 0, 1.0)
        distance = (steps[..., None] - levels).abs().amin(-1)
        eps = torch.finfo(trial.scheme.scale_dtype).eps + 4 * torch.finfo(torch.float32).eps
        fine = plainly_scaled(allowed, trial.scheme)
        off = (distance - eps * steps.abs()).where(fine, 0.0)
        assert bool((off <= 0).all()), (
            f"{steps.flatten()[off.argmax()].item():.9g} scales is no level"
        )

    @requires("state")
    @on_weights()
    def test_stored_bytes_are_those_of_the_scheme(self, trial: Trial) -> None:
        """All tensors that are kept take ceil(n · bits / 8) bytes and the scales', no more.

        Usual causes: one code a byte, an unpacked copy kept beside, float32 zero points, padding.
        """
        state = cast(StateKept, trial.quantizer).state(trial.quantized)
        kept, sizes = kept_bytes(state)
        allowed = claimed_bytes(trial)
        assert kept <= allowed, f"{kept} bytes are kept ({sizes}); the scheme has {allowed}"

    @requires("state")
    @on_weights()
    def test_saved_weights_decode_as_before(self, trial: Trial) -> None:
        """What is kept is enough: another quantizer reads the same weights from it.

        Usual causes: scales or zero points that are no part of the state, or skipped when zero;
        another convention for signs between writer and reader.
        """
        state = cast(StateKept, trial.quantizer).state(trial.quantized)
        copies = {name: tensor.clone() for name, tensor in state.items()}
        reader = cast(StateKept, trial.make(trial.scheme))
        other = reader.quantize(torch.ones_like(trial.weight))
        restored = reader.dequantize(reader.restore(copies, other))
        require_same(restored, trial.restored)

    # How properties are tried

    @property
    def _accepted(self) -> Accepted:
        ragged = "ragged" in self.capabilities
        return Accepted(self.dtypes, self.ranks, ragged, self.shortest_side)

    def _hold(
        self,
        make_quantizer: MakeQuantizer,
        holds: Callable[[Trial], None],
        only: Callable[[QuantizationScheme], bool] = lambda scheme: True,
        dtype: torch.dtype | None = None,
        subnormal_scales: bool = False,
    ) -> None:
        """Try the property on drawn weights and on the traps, of the schemes for which ``only``."""
        __tracebackhide__ = True

        def tried_on(case: WeightCase) -> None:
            holds(Trial(make_quantizer, replace(case, weight=case.weight.clone())))

        chosen = [scheme for scheme in self.schemes if only(scheme)]
        if dtype is not None and dtype not in self.dtypes:
            dtype = self.dtypes[0]
        accepted = self._accepted if dtype is None else replace(self._accepted, dtypes=[dtype])
        grids = {scheme: claimed_grid(make_quantizer(scheme), scheme) for scheme in chosen}
        traps = (
            trap
            for scheme, grid in grids.items()
            for trap in weight_traps(scheme, accepted, grid, subnormal_scales=subnormal_scales)
        )
        if chosen:
            cases = weight_cases(chosen, accepted)
            for_all(tried_on, cases, traps=traps, examples=self.examples)

    def _errors_fall(
        self, make_quantizer: MakeQuantizer, family: Sequence[QuantizationScheme]
    ) -> None:
        sizes = [row_lengths(scheme, ragged=False)[0] for scheme in family if scheme.group_size]
        columns = 2 * math.lcm(*sizes, 64)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(8, columns, generator=generator)
        # Magnitudes that vary from row to row and along rows, as trained weights' do.
        weight *= 2.0 ** torch.linspace(-2, 2, 8)[:, None]
        weight *= 1 + torch.sin(torch.arange(columns) / columns * 9).square() * 4
        if 2 not in self.ranks:
            weight = weight.view(-1)
        errors = [
            mse(weight, Trial(make_quantizer, WeightCase(scheme, weight)).restored)
            for scheme in family
        ]
        for (coarse, error), (fine, smaller) in pairwise(zip(family, errors, strict=True)):
            assert smaller < error, f"error {error:.4g} in {coarse}, {smaller:.4g} in {fine}"

    def _spoilt(self) -> Iterator[tuple[QuantizationScheme, Tensor]]:
        for scheme in self.schemes:
            (_, case), *_ = weight_traps(scheme, self._accepted)
            for value in (math.nan, math.inf, -math.inf):
                for index in (0, case.weight.numel() - 1):
                    weight = torch.ones_like(case.weight)
                    weight.view(-1)[index] = value
                    yield scheme, weight
