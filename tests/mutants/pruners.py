"""A small pruner that is right, and the same with faults that libraries have shipped.

Legend: M outputs, K inputs, R rows of n scores that are ranked among each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from infopt_suites.pruning import Pruner
from torch import Tensor, nn

AREA = "1 pruning"
MAGNITUDE = {"capabilities": {"sparsity", "patterns", "structured", "training"}}
REMASKED = {"capabilities": {"sparsity", "training", "remasking"}}
REGROWN = {"capabilities": {"sparsity", "training", "remasking", "regrows"}}
WANDA = {"capabilities": {"sparsity", "rows", "patterns", "activations"}}


class SmallPruner:
    """Magnitude pruning per tensor, and N:M; masks written again after each step."""

    def mask(
        self,
        weight: Tensor,
        *,
        sparsity: float | None = None,
        pattern: tuple[int, int] | None = None,
        inputs: Tensor | None = None,
    ) -> Tensor:
        scores = self.scores(weight, inputs)
        if pattern is not None:
            return self.blocks(scores, *pattern)
        return self.share(scores, sparsity or 0.0)

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return weight.abs().float()

    def share(self, scores: Tensor, sparsity: float) -> Tensor:
        return self.highest(scores.reshape(1, -1), sparsity).view(scores.shape)

    def blocks(self, scores: Tensor, kept: int, block: int) -> Tensor:
        rows = scores.reshape(-1, block)
        return self.highest(rows, 1 - kept / block).view(scores.shape)

    def highest(self, rows: Tensor, sparsity: float) -> Tensor:
        """Bool [R, n]"""
        removed = round(sparsity * rows.shape[1])
        order = rows.sort(dim=1, stable=True).indices  # [R, n]
        return torch.ones_like(rows, dtype=torch.bool).scatter_(1, order[:, :removed], False)

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        def apply(*_: Any) -> None:
            for name, mask in masks.items():
                module.get_parameter(name).data.mul_(mask)

        apply()
        return optimizer.register_step_post_hook(apply)

    def structured_mask(self, weight: Tensor, *, sparsity: float, axis: int) -> Tensor:
        removed = round(sparsity * weight.shape[axis])
        norms = self.slice_norms(weight.double().movedim(axis, 0).flatten(1))
        mask = torch.ones(weight.shape, dtype=torch.bool)
        mask.movedim(axis, 0)[norms.argsort(stable=True)[:removed]] = False
        return mask

    def slice_norms(self, slices: Tensor) -> Tensor:
        """[n] of [n, weights]"""
        return slices.norm(dim=1)


class SmallKeeper(SmallPruner):
    """Masks that are given again are held together: what is pruned stays so."""


class SmallRegrower(SmallPruner):
    """New masks take the place of the earlier ones."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        self.let_go()
        self.hook = super().keep(module, masks, optimizer)
        return self.hook

    def let_go(self) -> None:
        if hasattr(self, "hook"):
            self.hook.remove()


class SmallWanda(SmallPruner):
    """|w| · ‖x‖₂, ranked within rows."""

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        assert inputs is not None
        return weight.abs().float() * self.norms(inputs.reshape(-1, weight.shape[1]).float())

    def norms(self, tokens: Tensor) -> Tensor:
        """[K] of [N, K]"""
        return tokens.square().sum(dim=0).sqrt()

    def share(self, scores: Tensor, sparsity: float) -> Tensor:
        return self.highest(scores, sparsity)


# Faults of the count


class ThresholdKeepsTies(SmallPruner):
    """Q43 (sparseml#678): everything from the k-th smallest on stays, equal weights with it."""

    def highest(self, rows: Tensor, sparsity: float) -> Tensor:
        removed = round(sparsity * rows.shape[1])
        if removed == rows.shape[1]:
            return torch.zeros_like(rows, dtype=torch.bool)
        threshold = rows.sort(dim=1).values[:, removed : removed + 1]
        return rows >= threshold


class ThresholdRemovesTies(SmallPruner):
    """Q43 (sparseml#678): everything up to the k-th smallest goes."""

    def highest(self, rows: Tensor, sparsity: float) -> Tensor:
        removed = round(sparsity * rows.shape[1])
        if not removed:
            return torch.ones_like(rows, dtype=torch.bool)
        return rows > rows.kthvalue(removed, dim=1, keepdim=True).values


class FailsAtSparsityZero(SmallPruner):
    """Q43 (Torch-Pruning#28): kthvalue of k = 0 raises, where nothing was to be removed."""

    def share(self, scores: Tensor, sparsity: float) -> Tensor:
        scores.flatten().kthvalue(round(sparsity * scores.numel()))
        return super().share(scores, sparsity)


class CountOfAnotherPattern(SmallPruner):
    """Q43 (structured_transposable_masks#1): four of each eight, whatever pattern was asked for."""

    def blocks(self, scores: Tensor, kept: int, block: int) -> Tensor:
        if scores.numel() % 8:
            return super().blocks(scores, kept, block)
        return super().blocks(scores, 4, 8)


class KeptCountTruncated(SmallPruner):
    """Unlisted: int((1 − s) · n) is one too few wherever the float product falls short."""

    def highest(self, rows: Tensor, sparsity: float) -> Tensor:
        count = rows.shape[1]
        kept = int((1 - sparsity) * count)
        return super().highest(rows, 1 - kept / count)


class PatternInverted(SmallPruner):
    """Unlisted: n of each m are removed, where n were to stay."""

    def blocks(self, scores: Tensor, kept: int, block: int) -> Tensor:
        return super().blocks(scores, block - kept, block)


class BlocksDownTheColumns(SmallPruner):
    """Unlisted: n of each m down the outputs, an axis that the sparse kernel does not read."""

    def blocks(self, scores: Tensor, kept: int, block: int) -> Tensor:
        if scores.shape[0] % block:
            return super().blocks(scores, kept, block)
        return super().blocks(scores.T.contiguous(), kept, block).T.contiguous()


# Faults of the ranking


class SignForgotten(SmallPruner):
    """Unlisted: without abs, all negative weights go first."""

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return weight.float()


class LargestRemoved(SmallPruner):
    """Unlisted: the ranking is upside down."""

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return -weight.abs().float()


class ScoresInHalf(SmallPruner):
    """Unlisted: scores in float16, where small weights are all 0 and large ones infinite."""

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return weight.abs().half().float()


class PrunesInPlace(SmallPruner):
    """Unlisted: abs_ writes into the weight."""

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return weight.abs_().float()


class TiesByTurns(SmallPruner):
    """Unlisted: which of equal weights stay is another at each call."""

    def __init__(self) -> None:
        self.calls = 0

    def highest(self, rows: Tensor, sparsity: float) -> Tensor:
        self.calls += 1
        mask = super().highest(rows.roll(self.calls, dims=1), sparsity)
        return mask.roll(-self.calls, dims=1)


class FloatMask(SmallPruner):
    """Unlisted: a mask of 0.0 and 1.0, with which indexing means something else."""

    def highest(self, rows: Tensor, sparsity: float) -> Tensor:
        return super().highest(rows, sparsity).float()


# Faults of Wanda


class ActivationsIgnored(SmallWanda):
    """Unlisted: magnitude pruning under another name."""

    def norms(self, tokens: Tensor) -> Tensor:
        return torch.ones(tokens.shape[1])


class MeanForNorm(SmallWanda):
    """Unlisted: mean |x|, which a few large tokens hardly move, for the L2 norm."""

    def norms(self, tokens: Tensor) -> Tensor:
        return tokens.abs().mean(dim=0)


class NormNotRooted(SmallWanda):
    """Unlisted: Σ x² without the root; activations count twice."""

    def norms(self, tokens: Tensor) -> Tensor:
        return tokens.square().sum(dim=0)


class LastSequenceOnly(SmallWanda):
    """Unlisted: norms are overwritten, not summed, from one sequence to the next."""

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        assert inputs is not None
        return super().scores(weight, inputs[-1])


class RankedOverTheWholeWeight(SmallWanda):
    """Unlisted: one ranking for all rows, so that some outputs lose all their weights."""

    def share(self, scores: Tensor, sparsity: float) -> Tensor:
        return SmallPruner.share(self, scores, sparsity)


class EpsilonBesideNorms(SmallWanda):
    """Unlisted: a floor under the norms lets a dead feature with large weights stay."""

    def norms(self, tokens: Tensor) -> Tensor:
        return super().norms(tokens).clamp(min=0.1)


# Faults of training


class GradientMaskedOnly(SmallPruner):
    """Q44 (filter-pruning-geometric-median#47): momentum moves what has no gradient any more."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        for name, mask in masks.items():
            module.get_parameter(name).data.mul_(mask)
            module.get_parameter(name).register_hook(mask.mul)
        return None


class MaskedBeforeForward(SmallPruner):
    """Q44 (PyTorch-Deep-Compression#2): right in the forward pass, not after the last step."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        def apply(*_: Any) -> None:
            for name, mask in masks.items():
                module.get_parameter(name).data.mul_(mask)

        apply()
        return module.register_forward_pre_hook(apply)


class DecayOnly(SmallPruner):
    """Q44 (Unlearn-Saliency#32): pruned weights keep their values, and decay moves them."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        for name, mask in masks.items():
            module.get_parameter(name).register_hook(mask.mul)
        return None


class FirstMaskForAll(SmallPruner):
    """Unlisted: a loop variable is bound late; one layer's mask is written, the others' never."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        super().keep(module, masks, torch.optim.SGD(module.parameters(), lr=0.0))
        name, mask = next(iter(masks.items()))
        return super().keep(module, {name: mask}, optimizer)


class KeptWeightsFrozen(SmallPruner):
    """Unlisted: the mask is inverted in the gradient; zeros hold, and nothing else learns."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        for name, mask in masks.items():
            module.get_parameter(name).register_hook((~mask).mul)
        return super().keep(module, masks, optimizer)


class NewMasksIgnored(SmallKeeper):
    """Not listed: whoever holds masks already keeps them."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        if not hasattr(self, "held"):
            self.held = super().keep(module, masks, optimizer)
        return self.held


class NewMasksWrittenOnce(SmallRegrower):
    """Not listed: new zeros are written, and momentum moves them."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        if hasattr(self, "hook"):
            self.hook.remove()
            for name, mask in masks.items():
                module.get_parameter(name).data.mul_(mask)
            return None
        return super().keep(module, masks, optimizer)


class RegrowsUndeclared(SmallRegrower):
    """Not listed: weights come back, and nobody said so."""


class NeverRegrows(SmallRegrower):
    """Not listed: the first mask's hook stays beside the second's."""

    def let_go(self) -> None:
        pass


class GradientOfTheFirstMask(SmallRegrower):
    """Not listed: masks are replaced, the hooks on gradients are not."""

    def keep(
        self, module: nn.Module, masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
    ) -> Any:
        if not hasattr(self, "hook"):
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0
        for name, mask in masks.items():
            module.get_parameter(name).register_hook(mask.mul)
        return super().keep(module, masks, optimizer)


class SingleWeightsForSlices(SmallPruner):
    """Not listed: the share is removed weight by weight."""

    def structured_mask(self, weight: Tensor, *, sparsity: float, axis: int) -> Tensor:
        return self.mask(weight, sparsity=sparsity)


class OtherAxis(SmallPruner):
    """Not listed: rows for columns."""

    def structured_mask(self, weight: Tensor, *, sparsity: float, axis: int) -> Tensor:
        return super().structured_mask(weight, sparsity=sparsity, axis=-1 - axis)


class LargestWeightOfSlice(SmallPruner):
    """Not listed: a slice counts as its largest weight."""

    def slice_norms(self, slices: Tensor) -> Tensor:
        return slices.abs().amax(dim=1)


class SumOfSignedWeights(SmallPruner):
    """Not listed: without abs."""

    def slice_norms(self, slices: Tensor) -> Tensor:
        return slices.sum(dim=1)


@dataclass(frozen=True)
class PrunerMutant:
    """``fault`` must break the property; `sound` must keep it."""

    fault: type[Pruner]
    broken: str
    sound: type[Pruner] = SmallPruner

    @property
    def attributes(self) -> dict[str, Any]:
        return dict(SOUND[self.sound])


SOUND: dict[type[Pruner], dict[str, Any]] = {
    SmallPruner: MAGNITUDE,
    SmallWanda: WANDA,
    SmallKeeper: REMASKED,
    SmallRegrower: REGROWN,
}


REMASKING = "test_new_masks_hold_from_then_on"
REGROWING = "test_weights_that_new_masks_keep_train_again"
SLICES = "test_whole_slices_go_those_with_the_smallest_norms"
COUNT = "test_the_share_that_is_asked_for_is_removed"
BLOCKS = "test_each_block_keeps_as_many_as_the_pattern_says"
RANKING = "test_what_stays_scores_no_less_than_what_goes"
ACTIVATIONS = "test_activations_decide_with_the_weights"
ZEROS = "test_pruned_weights_stay_zero_in_training"
TRAINING = "test_kept_weights_train_as_if_zeros_were_written_after_each_step"

PRUNER_MUTANTS = [
    PrunerMutant(ThresholdKeepsTies, COUNT),
    PrunerMutant(ThresholdRemovesTies, COUNT),
    PrunerMutant(ThresholdRemovesTies, BLOCKS),
    PrunerMutant(FailsAtSparsityZero, COUNT),
    PrunerMutant(CountOfAnotherPattern, BLOCKS),
    PrunerMutant(KeptCountTruncated, COUNT),
    PrunerMutant(PatternInverted, BLOCKS),
    PrunerMutant(BlocksDownTheColumns, BLOCKS),
    PrunerMutant(BlocksDownTheColumns, "test_permuting_rows_permutes_the_mask"),
    PrunerMutant(SignForgotten, RANKING),
    PrunerMutant(LargestRemoved, RANKING),
    PrunerMutant(ScoresInHalf, "test_size_and_sign_of_weights_do_not_matter"),
    PrunerMutant(PrunesInPlace, "test_weight_and_inputs_are_not_modified"),
    PrunerMutant(TiesByTurns, "test_the_same_weight_gets_the_same_mask"),
    PrunerMutant(FloatMask, "test_the_mask_is_bool_in_the_shape_of_the_weight"),
    PrunerMutant(ActivationsIgnored, ACTIVATIONS, SmallWanda),
    PrunerMutant(MeanForNorm, ACTIVATIONS, SmallWanda),
    PrunerMutant(NormNotRooted, ACTIVATIONS, SmallWanda),
    PrunerMutant(LastSequenceOnly, ACTIVATIONS, SmallWanda),
    PrunerMutant(RankedOverTheWholeWeight, COUNT, SmallWanda),
    PrunerMutant(EpsilonBesideNorms, "test_features_that_never_fire_go_first", SmallWanda),
    PrunerMutant(GradientMaskedOnly, ZEROS),
    PrunerMutant(MaskedBeforeForward, ZEROS),
    PrunerMutant(DecayOnly, ZEROS),
    PrunerMutant(FirstMaskForAll, ZEROS),
    PrunerMutant(KeptWeightsFrozen, TRAINING),
    PrunerMutant(NewMasksIgnored, REMASKING, SmallKeeper),
    PrunerMutant(NewMasksWrittenOnce, REMASKING, SmallRegrower),
    PrunerMutant(RegrowsUndeclared, REMASKING, SmallKeeper),
    PrunerMutant(NeverRegrows, REGROWING, SmallRegrower),
    PrunerMutant(GradientOfTheFirstMask, REGROWING, SmallRegrower),
    PrunerMutant(SingleWeightsForSlices, SLICES),
    PrunerMutant(OtherAxis, SLICES),
    PrunerMutant(LargestWeightOfSlice, SLICES),
    PrunerMutant(SumOfSignedWeights, SLICES),
]
