"""PruningSuite: does a pruner remove as many weights as asked, the right ones, and for good?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..base import requires
from ..properties import EXAMPLES, for_all, tried
from ..tally import each_case, note_kinds
from .cases import (
    Accepted,
    PruningCase,
    Trial,
    activation_cases,
    distinct,
    highest,
    pruning_cases,
    pruning_traps,
)
from .protocol import MakePruner, StructuredPruner
from .training import TrainingProperties

on_weights = tried("make_pruner")  # a property of a `Trial`


class PruningSuite(TrainingProperties):
    """Properties of magnitude pruning and Wanda, unstructured and N:M, and of training with masks.

    Give a fixture ``make_pruner``: a `protocol.MakePruner`. Class attributes say what is tried:

    | attribute | default | meaning |
    |---|---|---|
    | ``patterns`` | 2:4, 1:4, 4:8 | the N:M that it takes |
    | ``dtypes`` | float32, float16, bfloat16 | dtypes of weights |
    | ``slice_norm`` | 2 | the p of the p-norm by which whole rows and columns are ranked |
    | ``examples`` | 40 | drawn cases of a property |
    """

    topic = "pruner"
    fixture = "make_pruner"
    fixture_returns = "a callable without arguments that makes a pruner"
    offers = {  # noqa: RUF012  # read only
        "sparsity": "mask(weight, sparsity=share) removes that share of the weight",
        "rows": "the share is removed of each row of the last axis, as in Wanda, not of the whole",
        "patterns": "mask(weight, pattern=(n, m)) keeps n of each m neighbours on the last axis",
        "activations": "scores are |w| · ‖x‖₂ (Wanda): mask(…, inputs=x)",
        "structured": "structured_mask(weight, sparsity, axis) removes whole slices of an axis",
        "training": "keep(module, masks, optimizer) holds pruned parameters at 0",
        "remasking": "keep may be called again with other masks, which hold from then on",
        "regrows": "weights that a new mask keeps train again; else they stay 0",
    }
    demands = (("sparsity", "patterns", "structured", "training"),)
    methods = {  # noqa: RUF012  # read only
        "sparsity": ("mask",),
        "patterns": ("mask",),
        "structured": ("structured_mask",),
        "training": ("keep",),
    }
    patterns: ClassVar[Sequence[tuple[int, int]]] = ((2, 4), (1, 4), (4, 8))
    dtypes: ClassVar[Sequence[torch.dtype]] = (torch.float32, torch.float16, torch.bfloat16)
    slice_norm: ClassVar[float] = 2
    examples: ClassVar[int] = EXAMPLES

    def made_from(self, implementation: Any) -> Any:
        return implementation()

    def first_cases(self, implementation: Any) -> Iterator[tuple[str, Callable[[], object]]]:
        for dtype in self.dtypes:
            weight, inputs = torch.ones(8, 8, dtype=dtype), self._accepted.given(torch.ones(4, 8))
            for way in self._accepted.ways:
                case = PruningCase(weight, sparsity=0.5, inputs=inputs)
                if way == "patterns":
                    case = PruningCase(weight, pattern=self.patterns[0], inputs=inputs)
                yield f"a mask of {dtype}", partial(case.mask_by, self.made_from(implementation))

    # How many

    @requires("sparsity")
    @on_weights(["sparsity"])
    def test_the_share_that_is_asked_for_is_removed(self, trial: Trial) -> None:
        """Exactly sparsity · n weights go, rounded either way where that is no integer.

        Speed and size are planned with it. Usual causes: a threshold that keeps, or removes, all
        of several equal weights; kthvalue at 0; int((1 − sparsity) · n) a float's breadth low.
        """
        case = trial.case
        removed = ~self._rows(case, trial.mask())
        count = removed.shape[1]
        asked = (case.sparsity or 0.0) * count
        rounding = count * 2**-52  # of the product, and of sparsity itself
        least, most = math.floor(asked + rounding), math.ceil(asked - rounding)
        for row, found in enumerate(removed.sum(dim=1).tolist()):
            assert least <= found <= most, (
                f"{found} of {count} weights of row {row} are removed, not {asked:.6g}"
            )

    @requires("patterns")
    @on_weights(["patterns"])
    def test_each_block_keeps_as_many_as_the_pattern_says(self, trial: Trial) -> None:
        """A sparse kernel reads exactly n of each m, so one block with more breaks the layout.

        Usual causes: a threshold and equal weights, blocks down the columns (silent on square
        weights), n and m swapped, a count that is right for another pattern.
        """
        kept, block = trial.case.pattern or (0, 1)
        counts = trial.mask().reshape(-1, block).sum(dim=1)
        wrong = counts != kept
        assert not bool(wrong.any()), (
            f"block {int(wrong.nonzero()[0])} keeps {counts[wrong][0].item()} of {block}"
        )

    # Which

    @on_weights()
    def test_what_stays_scores_no_less_than_what_goes(self, trial: Trial) -> None:
        """The smallest weights, or products with activations, are those that matter least.

        Usual causes: a forgotten abs, a ranking upside down, scores ranked over the whole weight
        for rows or blocks, a reshape that mixes axes, feature norms along the wrong axis.
        """
        mask = self._rows(trial.case, trial.mask())
        scores = self._rows(trial.case, trial.case.scores)
        # Norms here are powers of two: scores are exact, in every dtype.
        smallest = scores.where(mask, math.inf).amin(dim=1)
        largest = scores.where(~mask, -math.inf).amax(dim=1)
        wrong = smallest < largest
        assert not bool(wrong.any()), (
            f"a score of {smallest[wrong][0].item():.6g} stays where one of "
            f"{largest[wrong][0].item():.6g} goes"
        )

    @requires("activations")
    def test_activations_decide_with_the_weights(self, make_pruner: MakePruner) -> None:
        """The mask is that of |w| · ‖x‖₂ over all tokens, however they are split in sequences.

        Usual causes: inputs that are taken and not used, a mean or a maximum for the L2 norm, a
        norm over features for one over tokens, only the first sequence read.
        """
        for case in each_case(activation_cases(self._accepted)):
            mask = case.mask_by(make_pruner())
            expected = highest(self._rows(case, case.scores), case).view(mask.shape)
            assert torch.equal(mask, expected), (
                f"{int((mask != expected).sum())} of {mask.numel()} places of the mask differ"
            )

    @requires("activations")
    def test_features_that_never_fire_go_first(self, make_pruner: MakePruner) -> None:
        """A weight that meets 0 only changes nothing, be it ever so large.

        Usual causes: inputs that are not used, an epsilon beside large weights, norms that are
        normalised to 0/0.
        """
        for case in each_case(activation_cases(self._accepted)):
            assert case.inputs is not None
            inputs, weight = case.inputs.clone(), case.weight.clone()
            dead = torch.arange(weight.shape[1]) % 4 == 1
            inputs[..., dead], weight[:, dead] = 0, 1000
            mask = replace(case, inputs=inputs, weight=weight).mask_by(make_pruner())
            # A quarter is dead, and every case removes at least half.
            assert not bool(mask[:, dead].any()), "a feature that is always 0 keeps a weight"

    # Symmetries

    @on_weights()
    def test_the_mask_is_bool_in_the_shape_of_the_weight(self, trial: Trial) -> None:
        """Usual causes: floats that a product accepts and an index does not, a flattened axis."""
        mask, weight = trial.mask(), trial.case.weight
        assert mask.dtype is torch.bool
        assert mask.shape == weight.shape
        assert mask.device == weight.device

    @on_weights()
    def test_weight_and_inputs_are_not_modified(self, trial: Trial) -> None:
        """Choosing is not yet pruning. Usual causes: abs_ or sort in place, zeros written."""
        case = trial.case
        weight, inputs = case.weight.clone(), None if case.inputs is None else case.inputs.clone()
        trial.mask(weight=weight, inputs=inputs)
        assert torch.equal(weight, case.weight)
        assert inputs is None or torch.equal(inputs, cast(Tensor, case.inputs))

    @on_weights(dtypes=[torch.float32])
    def test_permuting_rows_permutes_the_mask(self, trial: Trial) -> None:
        """No row is special (where no two scores are equal).

        Usual causes: blocks or rows that overlap, a last row left out, scores of another row.
        """
        weight, inputs = distinct(trial.case.weight), trial.case.inputs
        if inputs is not None:
            inputs = inputs.where(inputs != 0, 1.0)  # all scores of a dead feature are equal
        order = torch.arange(len(weight)).roll(1).flip(0)
        mask = trial.mask(weight=weight, inputs=inputs)
        assert torch.equal(trial.mask(weight=weight[order], inputs=inputs), mask[order])

    @on_weights(dtypes=[torch.float32])
    def test_size_and_sign_of_weights_do_not_matter(self, trial: Trial) -> None:
        """Powers of two and a change of signs leave the ranking, ties included, as it was.

        Usual causes: an absolute threshold or epsilon, a forgotten abs, float16 in between.
        """
        expected = trial.mask()
        for factor in (-1.0, 2.0**-30, 2.0**30):
            scaled = trial.mask(weight=trial.case.weight * factor)
            assert torch.equal(scaled, expected), f"times {factor}"

    @on_weights()
    def test_the_same_weight_gets_the_same_mask(self, trial: Trial) -> None:
        """Masks depend on nothing but the arguments, ties included.

        Usual causes: an unstable sort, random tie-breaking, thresholds or norms left over.
        """
        pruner, case = trial.make(), trial.case
        other = replace(case, weight=case.weight.flip(-1) * 3 + 1)
        first = case.mask_by(pruner).clone()
        assert torch.equal(other.mask_by(pruner), other.mask_by(trial.make())), "another weight's"
        assert torch.equal(case.mask_by(pruner), first)
        assert torch.equal(trial.mask(), first)

    # Whole rows and columns

    @requires("structured")
    def test_whole_slices_go_those_with_the_smallest_norms(self, make_pruner: MakePruner) -> None:
        """Of n slices of an axis, round(sparsity · n) go (a half either way), the smallest ones.

        Only whole rows and columns make a smaller matrix. Usual causes: single weights removed,
        the other axis, norms of single weights for those of slices, a share of weights for slices.
        """
        for axis, weight, share in each_case(self._slices()):
            pruner = cast(StructuredPruner, make_pruner())
            given = weight.clone()
            mask = pruner.structured_mask(given, sparsity=share, axis=axis)
            assert torch.equal(given, weight), "choosing is not yet pruning: the weight was changed"
            assert mask.dtype is torch.bool
            assert mask.shape == weight.shape
            slices = mask.movedim(axis, 0).flatten(1)
            kept = slices[:, 0]
            assert torch.equal(slices, kept[:, None].expand_as(slices)), (
                f"axis {axis}: some slices are removed in part"
            )
            removed, asked = int((~kept).sum()), share * len(kept)
            assert abs(removed - asked) <= 0.5 + len(kept) * 2**-52, (
                f"axis {axis}: {removed} of {len(kept)} slices are removed, not {asked:.6g}"
            )
            norms = weight.double().movedim(axis, 0).flatten(1).norm(p=self.slice_norm, dim=1)
            smallest, largest = norms[kept], norms[~kept]
            assert not removed or removed == len(kept) or smallest.min() >= largest.max(), (
                f"axis {axis}: a slice of norm {smallest.min():.6g} stays where one of "
                f"{largest.max():.6g} goes"
            )

    # How properties are tried

    @property
    def _accepted(self) -> Accepted:
        ways = [way for way in ("sparsity", "patterns") if way in self.capabilities]
        return Accepted(ways, self.patterns, "activations" in self.capabilities)

    def _slices(self) -> Iterator[tuple[int, Tensor, float]]:
        """Axes, weights, and shares of their slices to remove."""
        generator = torch.Generator().manual_seed(0)
        for shape in ((8, 4), (5, 12), (6, 3, 2)):
            for axis in range(len(shape)):
                weight = torch.randn(shape, generator=generator)
                for share in (0.0, 0.25, 0.5, 0.9, 1.0):
                    yield axis, weight, share

    def _hold(
        self,
        make_pruner: MakePruner,
        holds: Callable[[Trial], None],
        ways: Sequence[str] = ("sparsity", "patterns"),
        dtypes: Sequence[torch.dtype] = (),
    ) -> None:
        __tracebackhide__ = True

        def tried_on(case: PruningCase) -> None:
            note_kinds(dtype=str(case.weight.dtype).removeprefix("torch."))
            holds(Trial(make_pruner, case))

        accepted = self._accepted
        for way in ways:
            if way in accepted.ways:
                cases = pruning_cases(accepted, dtypes or self.dtypes, way)
                traps = pruning_traps(accepted, way)
                for_all(tried_on, cases, traps=traps, examples=self.examples)

    def _rows(self, case: PruningCase, values: Tensor) -> Tensor:
        """Values as rows [R, n] of those that are ranked among each other."""
        if case.pattern is not None:
            return values.reshape(-1, case.pattern[1])
        by_row = "rows" in self.capabilities
        return values.reshape(-1, values.shape[-1]) if by_row else values.reshape(1, -1)
