"""A small GPTQ and a small AWQ that are right, and the same with faults that libraries shipped.

Legend: N tokens, M output features, K input features, B columns of a block.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme, quantize
from torch import Tensor

AREA = "1 calibrated quantizers"
COMMON = {"ragged", "streaming", "masks", "state"}
GPTQ = {"capabilities": COMMON | {"gptq", "updated-groups", "feedback", "drops-dead"}}
AWQ = {"capabilities": COMMON | {"mean-statistic", "searched", "keeps-zeros"}}
ACT_ORDER = {"capabilities": COMMON | {"gptq", "static-groups", "act-order", "feedback"}}
PRUNED = {"capabilities": COMMON | {"keeps-zeros"}}


class SmallQuantizer:
    """Keeps every token; what is quantized is a decoded weight."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        self.scheme = scheme
        self.batches: list[Tensor] = []

    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        self.batches.append(self.kept(inputs, mask).reshape(-1, inputs.shape[-1]).double())

    def kept(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        return inputs if mask is None else inputs[mask.bool()]

    @property
    def tokens(self) -> Tensor:
        """[N, K]"""
        return torch.cat(self.batches)

    def dequantize(self, quantized: Tensor) -> Tensor:
        return quantized

    def state(self, quantized: Tensor) -> dict[str, Tensor]:
        return {"weight": quantized}

    def restore(self, state: dict[str, Tensor], quantized: Tensor) -> Tensor:
        return state["weight"]


class SmallGptq(SmallQuantizer):
    """Blocks of columns; within a block at once, beyond it at the block's end."""

    block = 16  # divides groups, so that none starts where corrections are still to come
    damping = 0.01

    def hessian(self) -> Tensor:
        return 2 / len(self.tokens) * self.tokens.T @ self.tokens

    def damped(self, hessian: Tensor) -> Tensor:
        ridge = self.damping * hessian.diagonal().mean()
        alive = torch.where(hessian.diagonal() == 0, self.dead_diagonal(hessian), 0.0)
        return hessian + torch.diag(alive + ridge)

    def dead_diagonal(self, hessian: Tensor) -> Tensor:
        return hessian.diagonal().max().clamp(min=2.0**-100)

    def quantize(self, weight: Tensor) -> Tensor:
        hessian = self.hessian()
        factor = torch.linalg.cholesky(torch.linalg.inv(self.damped(hessian)), upper=True)  # [K, K]
        remaining = self.without_dead(weight.double(), hessian)
        result = torch.empty_like(remaining)
        for start in range(0, weight.shape[1], self.block):
            stop = min(start + self.block, weight.shape[1])
            errors = self.round_block(remaining, result, factor, start, stop)
            self.correct_later(remaining, errors, factor, start, stop)
        return result.to(weight.dtype)

    def without_dead(self, weight: Tensor, hessian: Tensor) -> Tensor:
        return weight.masked_fill(hessian.diagonal() == 0, 0)

    def round_block(
        self, remaining: Tensor, result: Tensor, factor: Tensor, start: int, stop: int
    ) -> Tensor:
        """Errors [M, B]."""
        errors = torch.zeros_like(remaining[:, start:stop])
        for j in range(start, stop):
            if j % self.group(remaining) == 0:
                self.enter_group(remaining, j)
            result[:, j] = self.round(remaining[:, j])
            error = (remaining[:, j] - result[:, j]) / factor[j, j]
            self.correct_block(remaining, error, factor, j, start, stop)
            errors[:, j - start] = error
        return errors

    def group(self, weight: Tensor) -> int:
        return self.scheme.group_size or weight.shape[1]

    def enter_group(self, remaining: Tensor, j: int) -> None:
        rows = replace(self.scheme, granularity=Granularity.CHANNEL, group_size=None)
        self.grid = quantize(remaining[:, j : j + self.group(remaining)], rows)

    def round(self, column: Tensor) -> Tensor:
        scales = self.grid.scales.double()
        scales = scales.where(scales > 0, 1.0)
        steps = (column / scales).round()
        if self.grid.zero_points is None:
            largest = 2 ** (self.scheme.bits - 1) - 1
            return steps.clamp(-largest, largest) * scales
        zeros = self.grid.zero_points.double()
        return ((steps + zeros).clamp(0, 2**self.scheme.bits - 1) - zeros) * scales

    def correct_block(
        self, remaining: Tensor, error: Tensor, factor: Tensor, j: int, start: int, stop: int
    ) -> None:
        remaining[:, j + 1 : stop] -= error[:, None] * factor[j, j + 1 : stop]

    def correct_later(
        self, remaining: Tensor, errors: Tensor, factor: Tensor, start: int, stop: int
    ) -> None:
        remaining[:, stop:] -= errors @ factor[start:stop, stop:]


class SmallGptqInFloat32(SmallGptq):
    """As sound as in float64: rounding may decide what is next to a tie."""

    block = 32

    def observe(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        self.batches.append(self.kept(inputs, mask).reshape(-1, inputs.shape[-1]).float())

    def hessian(self) -> Tensor:
        total, count = torch.zeros(()), 0
        for batch in self.batches:  # a running mean over tokens
            count += len(batch)
            total = total * ((count - len(batch)) / count) + 2 / count * batch.T @ batch
        return total

    def without_dead(self, weight: Tensor, hessian: Tensor) -> Tensor:
        return super().without_dead(weight, hessian).float()

    def round(self, column: Tensor) -> Tensor:
        return super().round(column).float()


class SmallAwq(SmallQuantizer):
    """Columns scaled by mean |x|^ratio / mean |w|^(1 − ratio), the ratio searched for."""

    ratios = tuple(step / 20 for step in range(21))

    def quantize(self, weight: Tensor) -> Tensor:
        nearest = quantize(weight, self.scheme).dequantize().double()
        candidates = [nearest, *(self.scaled(weight.double(), ratio) for ratio in self.ratios)]
        return min(candidates, key=lambda c: self.error(weight.double() - c)).to(weight.dtype)

    def error(self, difference: Tensor) -> float:
        return float((self.tokens @ difference.T).square().sum())

    def scaled(self, weight: Tensor, ratio: float) -> Tensor:
        statistic = self.statistic()
        statistic = self.alive(statistic / statistic.max())
        scales = statistic**ratio / self.alive(weight.abs().mean(dim=0)) ** (1 - ratio)
        scales = scales / (scales.max() * scales.min()).sqrt()
        return quantize(weight * scales, self.scheme).dequantize() / scales

    def statistic(self) -> Tensor:
        """[K]"""
        return self.tokens.abs().mean(dim=0)

    def alive(self, statistic: Tensor) -> Tensor:
        return statistic.clamp(min=2.0**-20)


class SmallActOrder(SmallGptq):
    """Columns by the falling diagonal, one block; scales from the original weights."""

    def quantize(self, weight: Tensor) -> Tensor:
        hessian = self.hessian()
        order = self.order(hessian)
        remaining = self.without_dead(weight.double(), hessian)
        originals = self.originals(remaining)
        damped = self.damped(hessian)[order][:, order]
        factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
        columns, result = remaining[:, order], torch.empty_like(remaining)
        for place, column in enumerate(order.tolist()):
            self.grid = originals[self.group_of(column, place) // self.group(weight)]
            result[:, place] = self.round(columns[:, place])
            error = (columns[:, place] - result[:, place]) / factor[place, place]
            columns[:, place + 1 :] -= error[:, None] * factor[place, place + 1 :]
        return self.undone(result, order).to(weight.dtype)

    def order(self, hessian: Tensor) -> Tensor:
        return hessian.diagonal().argsort(descending=True, stable=True)

    def originals(self, weight: Tensor) -> list[Any]:
        rows = replace(self.scheme, granularity=Granularity.CHANNEL, group_size=None)
        return [quantize(part, rows) for part in weight.split(self.group(weight), dim=1)]

    def group_of(self, column: int, place: int) -> int:
        return column

    def undone(self, result: Tensor, order: Tensor) -> Tensor:
        return result[:, order.argsort()]


class SmallPrunedGptq(SmallGptq):
    """SparseGPTQ's way: what is pruned stays so, and its error is fed back as well."""

    def quantize(self, weight: Tensor) -> Tensor:
        self.zeros = weight == 0
        return super().quantize(weight)

    def round_block(
        self, remaining: Tensor, result: Tensor, factor: Tensor, start: int, stop: int
    ) -> Tensor:
        self.column = start
        return super().round_block(remaining, result, factor, start, stop)

    def round(self, column: Tensor) -> Tensor:
        kept = super().round(column).masked_fill(self.zeros[:, self.column], 0)
        self.column += 1
        return kept


class SmallClip(SmallQuantizer):
    """Each row's range shrunk by a factor that is searched for, by the output error."""

    factors = tuple(step / 20 for step in range(12, 20))

    def quantize(self, weight: Tensor) -> Tensor:
        best = quantize(weight, self.scheme).dequantize().double()
        for factor in self.factors:
            limits = weight.double().abs().amax(dim=1, keepdim=True) * factor
            clipped = weight.double().clamp(-limits, limits)
            candidate = quantize(clipped, self.scheme).dequantize()
            better = self.errors(weight - candidate) < self.errors(weight - best)  # [M]
            best = torch.where(better[:, None], candidate, best)
        return best.to(weight.dtype)

    def errors(self, difference: Tensor) -> Tensor:
        """[M]"""
        return (self.tokens @ difference.double().T).square().sum(dim=0)


# Faults of GPTQ


class LocalIndex(SmallGptq):
    """Q17 (mlx-lm#1880): within a block, corrections go to the columns counted from 0."""

    def correct_block(
        self, remaining: Tensor, error: Tensor, factor: Tensor, j: int, start: int, stop: int
    ) -> None:
        local = j - start
        width = stop - start - local - 1
        remaining[:, local + 1 : local + 1 + width] -= error[:, None] * factor[j, j + 1 : stop]


class LocalRowOfFactor(SmallGptq):
    """Q17, as BUGS.md plants it: the factor is read at the local column."""

    def correct_block(
        self, remaining: Tensor, error: Tensor, factor: Tensor, j: int, start: int, stop: int
    ) -> None:
        local, width = j - start, stop - j - 1
        row = factor[local, local + 1 : local + 1 + width]
        remaining[:, j + 1 : stop] -= error[:, None] * row


class LaterBlocksForgotten(SmallGptq):
    """Unlisted: errors stay within their block."""

    def correct_later(self, *_: Any) -> None:
        pass


class LaterBlocksByLocalRows(SmallGptq):
    """Unlisted: the product at a block's end takes the first rows of the factor."""

    def correct_later(
        self, remaining: Tensor, errors: Tensor, factor: Tensor, start: int, stop: int
    ) -> None:
        remaining[:, stop:] -= errors @ factor[: stop - start, stop:]


class ErrorNotDivided(SmallGptq):
    """Unlisted: the error is not divided by the factor's diagonal (undone here by multiplying)."""

    def correct_block(
        self, remaining: Tensor, error: Tensor, factor: Tensor, j: int, start: int, stop: int
    ) -> None:
        super().correct_block(remaining, error * factor[j, j], factor, j, start, stop)


class FirstGroupsScales(SmallGptq):
    """Unlisted: the first group's scales are used for all."""

    def enter_group(self, remaining: Tensor, j: int) -> None:
        if j == 0:
            super().enter_group(remaining, j)


class GroupsOfOriginalWeights(SmallGptq):
    """Unlisted: claims updated groups, and takes scales before any correction."""

    def quantize(self, weight: Tensor) -> Tensor:
        self.original = weight.double()
        return super().quantize(weight)

    def enter_group(self, remaining: Tensor, j: int) -> None:
        super().enter_group(self.original, j)


class GroupsInsideBlocks(SmallGptq):
    """Unlisted: a group that starts inside a block is scaled before the block's corrections."""

    block = 24


class PermutationNotUndone(SmallGptq):
    """Unlisted: columns come back in the order in which they were processed."""

    def quantize(self, weight: Tensor) -> Tensor:
        order = self.hessian().diagonal().argsort(descending=True)
        batches, self.batches = self.batches, [batch[:, order] for batch in self.batches]
        result = super().quantize(weight[:, order])
        self.batches = batches
        return result


class NotDamped(SmallGptq):
    """Unlisted: no damping; with few tokens the inverse is rounding noise, or there is none."""

    def damped(self, hessian: Tensor) -> Tensor:
        return hessian + 2.0**-40 * torch.eye(len(hessian), dtype=hessian.dtype)


class AbsoluteDamping(SmallGptq):
    """Unlisted: 0.01 itself is added, whatever the size of the inputs."""

    def damped(self, hessian: Tensor) -> Tensor:
        return super().damped(hessian) + 0.01 * torch.eye(len(hessian), dtype=hessian.dtype)


class TenfoldDamping(SmallGptq):
    """Unlisted: a percentage is taken for a share."""

    def damped(self, hessian: Tensor) -> Tensor:
        return (
            hessian
            + super().damped(hessian) * 0
            + torch.diag(
                hessian.diagonal().mean().expand(len(hessian)) * 0.1 + (hessian.diagonal() == 0)
            )
        )


class DeadColumnsDivide(SmallGptq):
    """Unlisted: the inverse of a dead feature's 0 is infinite, and infinity times 0 is NaN."""

    def round_block(
        self, remaining: Tensor, result: Tensor, factor: Tensor, start: int, stop: int
    ) -> Tensor:
        errors = super().round_block(remaining, result, factor, start, stop)
        dead = self.hessian().diagonal()[start:stop] == 0
        result[:, start:stop] += torch.where(dead, torch.nan, 0.0)
        return errors


class CorrectedAfterRounding(SmallGptq):
    """Unlisted: what is returned has a correction on top of its levels."""

    def quantize(self, weight: Tensor) -> Tensor:
        result = super().quantize(weight)
        return result + (weight - result) / 64


# Faults of the statistics


class PaddingObserved(SmallGptq):
    """Q55 (Model-Optimizer#1261): the mask is dropped."""

    def kept(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        return inputs


class PaddingObservedByAwq(SmallAwq):
    """Q55: the mask is dropped."""

    def kept(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        return inputs


class MeanOfBatches(SmallGptq):
    """Q56 (GPTQModel#2979): each batch counts as one sample of the running mean."""

    def hessian(self) -> Tensor:
        means = [2 / len(batch) * batch.T @ batch for batch in self.batches]
        return torch.stack(means).mean(dim=0)


class LastBatchOnly(SmallGptq):
    """Unlisted: the Hessian is overwritten by each batch."""

    def hessian(self) -> Tensor:
        last = self.batches[-1]
        return 2 / len(last) * last.T @ last


class FirstTokensOnly(SmallGptq):
    """Unlisted: a cap on the number of tokens keeps the first ones."""

    def hessian(self) -> Tensor:
        first = self.tokens[:32]
        return 2 / len(first) * first.T @ first


class SharedStatistics(SmallGptq):
    """Unlisted: the list of batches belongs to the class."""

    shared: list[Tensor] = []  # noqa: RUF012  # the fault

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.batches = self.shared


class CalibrationIgnored(SmallGptq):
    """Unlisted: rounding to nearest under another name."""

    def quantize(self, weight: Tensor) -> Tensor:
        return quantize(weight, self.scheme).dequantize()


class WeightUpdatedInPlace(SmallGptq):
    """Unlisted: corrections are written into the caller's weight."""

    def quantize(self, weight: Tensor) -> Tensor:
        result = super().quantize(weight)
        weight.copy_(result)
        return result


class Float32Throughout(SmallGptq):
    """Unlisted: the weight's dtype is forgotten."""

    def quantize(self, weight: Tensor) -> Tensor:
        return super().quantize(weight).float()


# Faults of AWQ


class MaximumForMean(SmallAwq):
    """Q21 (keras#23478): the largest |x| of all tokens, one token's, for the mean."""

    def statistic(self) -> Tensor:
        return self.tokens.abs().amax(dim=0)


class NoSearch(SmallAwq):
    """Q21: a fixed ratio, which may be worse than none."""

    def quantize(self, weight: Tensor) -> Tensor:
        return self.scaled(weight.double(), 0.9).to(weight.dtype)


class DeadFeatureDivides(SmallAwq):
    """Q23's like in AWQ: scale 0 for a feature that is always 0."""

    ratios = (0.5,)

    def quantize(self, weight: Tensor) -> Tensor:
        return self.scaled(weight.double(), 0.5).to(weight.dtype)

    def alive(self, statistic: Tensor) -> Tensor:
        return statistic

    def scaled(self, weight: Tensor, ratio: float) -> Tensor:
        scales = self.statistic() ** ratio
        scales = scales / scales.mean()
        return (weight * scales).mul(8).round().div(8) / scales


class ScalesSearchedNotApplied(SmallAwq):
    """Unlisted: the best ratio is found and rounding to nearest stored."""

    def quantize(self, weight: Tensor) -> Tensor:
        super().quantize(weight)
        return quantize(weight, self.scheme).dequantize()


# Faults of what is kept, of zeros, and of the order of columns


class FirstWeightForEver(SmallGptq):
    """Not listed: a cache without a key."""

    kept_result: Tensor | None = None

    def quantize(self, weight: Tensor) -> Tensor:
        if self.kept_result is None:
            self.kept_result = super().quantize(weight)
        return self.kept_result


class CachedByShape(SmallAwq):
    """Not listed: the scales of a layer are those of any layer of its shape."""

    def __init__(self, scheme: QuantizationScheme) -> None:
        super().__init__(scheme)
        self.results: dict[torch.Size, Tensor] = {}

    def quantize(self, weight: Tensor) -> Tensor:
        return self.results.setdefault(weight.shape, super().quantize(weight))


class ColumnScalesNotKept(SmallAwq):
    """Not listed: scales of columns are an attribute of the quantizer, and no part of the state."""

    scales = torch.ones(())

    def quantize(self, weight: Tensor) -> Tensor:
        self.scales = self.alive(self.statistic()).sqrt()
        scaled: Tensor = quantize(weight * self.scales, self.scheme).dequantize()
        return scaled

    def dequantize(self, quantized: Tensor) -> Tensor:
        return (quantized / self.scales).to(quantized.dtype)


class StateInHalf(SmallGptq):
    """Not listed: what is kept is float16."""

    def state(self, quantized: Tensor) -> dict[str, Tensor]:
        return {"weight": quantized.half()}

    def restore(self, state: dict[str, Tensor], quantized: Tensor) -> Tensor:
        return state["weight"].to(quantized.dtype)


class ReadsItsOwn(SmallGptq):
    """Not listed: what was quantized last is decoded, whatever is read."""

    def restore(self, state: dict[str, Tensor], quantized: Tensor) -> Tensor:
        return quantized


class ClippedByWeightError(SmallClip):
    """Not listed: each row's clipping is chosen by the weights' error."""

    def errors(self, difference: Tensor) -> Tensor:
        return difference.double().square().sum(dim=1)


class SearchedByWeightError(SmallAwq):
    """Not listed: the weights' error decides, as on unit inputs."""

    def error(self, difference: Tensor) -> float:
        return float(difference.square().sum())


class ScaleOneLeftOut(SmallAwq):
    """Not listed: rounding to nearest is none of the candidates."""

    ratios = (0.9, 1.0)

    def quantize(self, weight: Tensor) -> Tensor:
        candidates = [self.scaled(weight.double(), ratio) for ratio in self.ratios]
        return min(candidates, key=lambda c: self.error(weight.double() - c)).to(weight.dtype)


class LastForTheBest(SmallAwq):
    """Not listed: each candidate that beats rounding to nearest replaces the one before."""

    def quantize(self, weight: Tensor) -> Tensor:
        best = quantize(weight, self.scheme).dequantize().double()
        nearest = self.error(weight.double() - best)
        for ratio in self.ratios:
            candidate = self.scaled(weight.double(), ratio)
            if self.error(weight.double() - candidate) <= nearest * 2:
                best = candidate
        return best.to(weight.dtype)


class ZerosCorrected(SmallPrunedGptq):
    """Not listed: pruned weights take part in corrections and keep what they get."""

    def round(self, column: Tensor) -> Tensor:
        return SmallGptq.round(self, column)


class ZerosOfTheFirstColumn(SmallPrunedGptq):
    """Not listed: the mask of the block's first column is applied to all."""

    def round(self, column: Tensor) -> Tensor:
        return SmallGptq.round(self, column).masked_fill(self.zeros[:, self.column], 0)


class MeanAdded(SmallAwq):
    """Not listed: the bias of rounding is taken from all weights, zeros too."""

    def quantize(self, weight: Tensor) -> Tensor:
        found = super().quantize(weight)
        return found + (weight - found).mean()


class DeadWeightsKept(SmallGptq):
    """Not listed: a weight that meets 0 alone widens the steps of its group."""

    def without_dead(self, weight: Tensor, hessian: Tensor) -> Tensor:
        return weight.clone()


class DeadClearedAtTheEnd(SmallGptq):
    """Not listed: dead columns are cleared in the result, after they have set the scales."""

    def without_dead(self, weight: Tensor, hessian: Tensor) -> Tensor:
        return weight.clone()

    def quantize(self, weight: Tensor) -> Tensor:
        return super().quantize(weight).masked_fill(self.hessian().diagonal() == 0, 0)


class AllDeadIsSingular(SmallGptq):
    """Not listed: dead features get the largest of a diagonal that is 0 throughout."""

    def dead_diagonal(self, hessian: Tensor) -> Tensor:
        return hessian.diagonal().max()


class AllDeadIsNanInGptq(SmallGptq):
    """Not listed: the damping is relative to a mean that is 0."""

    def hessian(self) -> Tensor:
        hessian = super().hessian()
        return hessian / hessian.diagonal().mean()


class RisingOrder(SmallActOrder):
    """Not listed: the least important columns first."""

    def order(self, hessian: Tensor) -> Tensor:
        return hessian.diagonal().argsort(stable=True)


class OrderByWeights(SmallActOrder):
    """Not listed: the inverse's diagonal in the place of the Hessian's."""

    def order(self, hessian: Tensor) -> Tensor:
        return torch.linalg.inv(self.damped(hessian)).diagonal().argsort(stable=True)


class OrderUndoneByItself(SmallActOrder):
    """Not listed: the permutation is applied again where its inverse is meant."""

    def undone(self, result: Tensor, order: Tensor) -> Tensor:
        return result[:, order]


class GroupsOfPlaces(SmallActOrder):
    """Not listed: the scales of the group at this place of the order."""

    def group_of(self, column: int, place: int) -> int:
        return place


class FeedbackOfOneColumn(SmallGptq):
    """Not listed: only the next column makes up for an error."""

    def correct_block(
        self, remaining: Tensor, error: Tensor, factor: Tensor, j: int, start: int, stop: int
    ) -> None:
        remaining[:, j + 1 : j + 2] -= error[:, None] * factor[j, j + 1 : j + 2]


class BlocksOf128Alone(SmallGptq):
    """Not listed: blocks of 128, none of which makes up for another."""

    block = 128

    def correct_later(self, *_: Any) -> None:
        pass


@dataclass(frozen=True)
class CalibratedMutant:
    """``fault`` must break the property; `SmallGptq`, or `SmallAwq`, must keep it."""

    fault: type[SmallQuantizer]
    broken: str

    @property
    def attributes(self) -> dict[str, Any]:
        for sound, attributes in SOUND:
            if issubclass(self.fault, sound):
                return dict(attributes)
        raise TypeError(f"{self.fault.__name__} is no mutant of anything sound")


SOUND: list[tuple[type[SmallQuantizer], dict[str, Any]]] = [
    (SmallActOrder, ACT_ORDER),
    (SmallPrunedGptq, PRUNED),
    (SmallGptqInFloat32, GPTQ),
    (SmallGptq, GPTQ),
    (SmallAwq, AWQ),
    (SmallClip, {"capabilities": COMMON | {"searched", "keeps-zeros"}}),
]


NEARER = "test_outputs_are_nearer_than_with_rounding_to_nearest"
COLUMNS = "test_columns_are_rounded_as_one_by_one"
GROUPS = "test_groups_are_scaled_when_their_turn_comes"
PADDING = "test_padding_is_not_observed"
SPLIT = "test_batches_split_otherwise_give_the_same_weights"
DEAD = "test_features_that_are_always_zero_do_no_harm"

LEFT_OVER = "test_nothing_is_left_over_from_other_layers"
SAVED = "test_saved_weights_decode_as_before"
SEARCHED = "test_a_searched_scale_serves_the_outputs_best"
ZEROS = "test_zeros_of_a_pruned_weight_stay_zero"
LARGE_DEAD = "test_large_weights_of_dead_features_cost_nothing"
ALL_ZERO = "test_inputs_that_are_all_zero_are_survived_or_refused"
STATIC = "test_static_groups_keep_the_scales_of_the_original_weights"
FEEDBACK = "test_errors_of_columns_are_made_up_for_by_others"

CALIBRATED_MUTANTS = [
    CalibratedMutant(LocalIndex, COLUMNS),
    CalibratedMutant(LocalRowOfFactor, COLUMNS),
    CalibratedMutant(LocalRowOfFactor, GROUPS),
    CalibratedMutant(LaterBlocksForgotten, COLUMNS),
    CalibratedMutant(LaterBlocksByLocalRows, COLUMNS),
    CalibratedMutant(ErrorNotDivided, COLUMNS),
    CalibratedMutant(FirstGroupsScales, GROUPS),
    CalibratedMutant(GroupsOfOriginalWeights, GROUPS),
    CalibratedMutant(GroupsInsideBlocks, GROUPS),
    CalibratedMutant(PermutationNotUndone, NEARER),
    CalibratedMutant(PermutationNotUndone, "test_unrelated_inputs_do_no_harm"),
    CalibratedMutant(NotDamped, COLUMNS),
    CalibratedMutant(NotDamped, "test_fewer_tokens_than_features_are_enough"),
    CalibratedMutant(AbsoluteDamping, "test_scaling_inputs_by_powers_of_two_changes_nothing"),
    CalibratedMutant(TenfoldDamping, COLUMNS),
    CalibratedMutant(DeadColumnsDivide, DEAD),
    CalibratedMutant(
        CorrectedAfterRounding, "test_decoded_weights_take_no_more_levels_than_there_are_codes"
    ),
    CalibratedMutant(PaddingObserved, PADDING),
    CalibratedMutant(PaddingObservedByAwq, PADDING),
    CalibratedMutant(MeanOfBatches, SPLIT),
    CalibratedMutant(LastBatchOnly, SPLIT),
    CalibratedMutant(FirstTokensOnly, "test_the_order_of_tokens_does_not_matter"),
    CalibratedMutant(SharedStatistics, "test_nothing_is_left_over_from_other_layers"),
    CalibratedMutant(CalibrationIgnored, "test_calibration_is_really_used"),
    CalibratedMutant(
        WeightUpdatedInPlace, "test_shape_and_dtype_come_back_and_nothing_is_modified"
    ),
    CalibratedMutant(Float32Throughout, "test_shape_and_dtype_come_back_and_nothing_is_modified"),
    CalibratedMutant(MaximumForMean, "test_one_outlier_token_costs_little"),
    CalibratedMutant(NoSearch, NEARER),
    CalibratedMutant(DeadFeatureDivides, DEAD),
    CalibratedMutant(ScalesSearchedNotApplied, NEARER),
    CalibratedMutant(FirstWeightForEver, LEFT_OVER),
    CalibratedMutant(CachedByShape, LEFT_OVER),
    CalibratedMutant(ColumnScalesNotKept, SAVED),
    CalibratedMutant(StateInHalf, SAVED),
    CalibratedMutant(ReadsItsOwn, SAVED),
    CalibratedMutant(SearchedByWeightError, SEARCHED),
    CalibratedMutant(ClippedByWeightError, SEARCHED),
    CalibratedMutant(ScaleOneLeftOut, SEARCHED),
    CalibratedMutant(LastForTheBest, SEARCHED),
    CalibratedMutant(ZerosCorrected, ZEROS),
    CalibratedMutant(ZerosOfTheFirstColumn, ZEROS),
    CalibratedMutant(MeanAdded, ZEROS),
    CalibratedMutant(DeadWeightsKept, LARGE_DEAD),
    CalibratedMutant(DeadClearedAtTheEnd, LARGE_DEAD),
    CalibratedMutant(AllDeadIsSingular, ALL_ZERO),
    CalibratedMutant(DeadFeatureDivides, ALL_ZERO),
    CalibratedMutant(AllDeadIsNanInGptq, ALL_ZERO),
    CalibratedMutant(RisingOrder, COLUMNS),
    CalibratedMutant(OrderByWeights, COLUMNS),
    CalibratedMutant(OrderUndoneByItself, COLUMNS),
    CalibratedMutant(GroupsOfPlaces, STATIC),
    CalibratedMutant(LaterBlocksForgotten, FEEDBACK),
    CalibratedMutant(FeedbackOfOneColumn, FEEDBACK),
    CalibratedMutant(BlocksOf128Alone, FEEDBACK),
]
