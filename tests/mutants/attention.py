"""A small attention that is right, and the same with faults that real kernels have shipped.

Legend: B batch, T query length, S key length, H query heads, G kv heads, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from infopt_suites.attention import AttentionSpec, AttentionSuite
from torch import Tensor

AREA = "2 attention"
State = tuple[Tensor, Tensor, Tensor]  # running maximum, denominator, and sum of values


class SmallAttention:
    """Online softmax over tiles of keys, each step a method that a fault overrides."""

    initial_maximum, fill = -math.inf, -math.inf

    def __init__(self, spec: AttentionSpec) -> None:
        self.spec = spec

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> Tensor:
        return self.attend_with_lse(queries, keys, values, padding)[0]

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if padding is None:
            padding = torch.zeros(queries.shape[0], dtype=torch.long)
        repeats = queries.shape[1] // keys.shape[1]
        keys, values = self.repeat(keys, repeats), self.repeat(values, repeats)
        seen = self.seen(queries.shape[2], keys.shape[2], padding)  # [B, 1, T, S]
        state = self.empty(queries)
        size = self.spec.tile or max(keys.shape[2], 1)
        for start in range(0, keys.shape[2], size):
            tile = slice(start, start + size)
            state = self.absorb_tile(
                state, queries, keys[:, :, tile], values[:, :, tile], seen[..., tile]
            )
        return self.finish(self.with_sinks(state))

    def repeat(self, heads: Tensor, repeats: int) -> Tensor:
        return heads.repeat_interleave(repeats, dim=1)

    def seen(self, queries: int, keys: int, padding: Tensor) -> Tensor:
        empty = padding[:, None, None, None]
        query = self.first_query(queries, keys) + torch.arange(queries)[:, None] - empty
        key = torch.arange(keys) - empty
        seen = (key >= 0).expand(-1, 1, queries, keys)
        if self.spec.causal:
            seen = seen & (key <= query)
        if self.spec.window is not None:
            seen = seen & self.in_window(query - key, self.spec.window)
        if self.spec.chunk is not None:
            seen = seen & self.same_chunk(query, key, empty, self.spec.chunk)
        return seen

    def first_query(self, queries: int, keys: int) -> int:
        return keys - queries

    def in_window(self, distance: Tensor, window: int) -> Tensor:
        return distance < window

    def same_chunk(self, query: Tensor, key: Tensor, empty: Tensor, chunk: int) -> Tensor:
        return query.div(chunk, rounding_mode="floor") == key.div(chunk, rounding_mode="floor")

    def empty(self, queries: Tensor) -> State:
        rows = queries.new_zeros(*queries.shape[:3], 1)
        return rows + self.initial_maximum, rows.clone(), torch.zeros_like(queries)

    def absorb_tile(
        self, state: State, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor
    ) -> State:
        scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
        scores = scores.masked_fill(~seen, self.fill)
        return self.absorb(state, scores, values)

    def absorb(self, state: State, scores: Tensor, values: Tensor) -> State:
        maximum, total, summed = state
        new = torch.maximum(maximum, scores.amax(-1, keepdim=True))
        shift = self.guarded(new)
        weights = self.weights(scores, shift)
        total = self.rescale(total, maximum, shift) + weights.sum(-1, keepdim=True)
        summed = self.rescale_sum(summed, maximum, shift) + weights @ values
        return new, total, summed

    def guarded(self, maximum: Tensor) -> Tensor:
        return maximum.masked_fill(maximum == -math.inf, 0.0)

    def weights(self, scores: Tensor, shift: Tensor) -> Tensor:
        return (scores - shift).exp()

    def rescale(self, total: Tensor, old: Tensor, shift: Tensor) -> Tensor:
        return total * (old - shift).exp()

    def rescale_sum(self, summed: Tensor, old: Tensor, shift: Tensor) -> Tensor:
        return summed * (old - shift).exp()

    def with_sinks(self, state: State) -> State:
        if self.spec.sinks is None:
            return state
        logits = torch.tensor(self.spec.sinks, dtype=state[0].dtype)[None, :, None, None]
        logits = logits.expand_as(state[0])
        return self.absorb(state, logits, torch.zeros_like(state[2][:, :, :1]))

    def finish(self, state: State) -> tuple[Tensor, Tensor]:
        maximum, total, summed = state
        output = summed / total.masked_fill(total == 0, 1.0)
        return output, self.lse(maximum, total).squeeze(-1)

    def lse(self, maximum: Tensor, total: Tensor) -> Tensor:
        return maximum + total.log()

    def merge(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        outputs = torch.stack([output for output, _ in parts])
        lses = torch.stack([lse for _, lse in parts])
        lse = lses.logsumexp(0)
        shares = (lses - lse.masked_fill(lse == -math.inf, 0.0)).exp()
        return (shares[..., None] * outputs).sum(0), lse


class OnCleanedSlots(SmallAttention):
    """Sound: what padded slots hold is overwritten first."""

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if padding is not None:
            empty = (torch.arange(keys.shape[2]) < padding[:, None])[:, None, :, None]
            keys, values = self.cleaned(keys, empty), self.cleaned_values(values, empty)
        return super().attend_with_lse(queries, keys, values, padding)

    def cleaned(self, slots: Tensor, empty: Tensor) -> Tensor:
        return slots.masked_fill(empty, 0.0)

    def cleaned_values(self, values: Tensor, empty: Tensor) -> Tensor:
        return self.cleaned(values, empty)


class ValuesNotCleaned(OnCleanedSlots):
    """Not listed: 0 · NaN."""

    def cleaned_values(self, values: Tensor, empty: Tensor) -> Tensor:
        return values


class CleanedByMultiplication(OnCleanedSlots):
    """Not listed: NaN · 0, before the product instead of in it."""

    def cleaned(self, slots: Tensor, empty: Tensor) -> Tensor:
        return slots * ~empty


class NanReplacedAlone(OnCleanedSlots):
    """Not listed: infinity stays, and 0 · inf is NaN."""

    def cleaned(self, slots: Tensor, empty: Tensor) -> Tensor:
        return slots.masked_fill(slots.isnan(), 0.0)


class ScaledFirst(SmallAttention):
    """Sound: queries and keys are scaled by D^(−1/4) each, so that products overflow late."""

    def absorb_tile(
        self, state: State, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor
    ) -> State:
        root = queries.shape[-1] ** 0.25
        scores = (queries / root) @ (keys / root).mT
        return self.absorb(state, scores.masked_fill(~seen, self.fill), values)


class JoinedParts(SmallAttention):
    """Sound: attention to halves of the keys, merged by their denominators (flash decoding)."""

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        seen = self.seen(
            queries.shape[2], keys.shape[2], torch.zeros(1).long() if padding is None else padding
        )
        repeats = queries.shape[1] // keys.shape[1]
        keys, values = self.repeat(keys, repeats), self.repeat(values, repeats)
        parts = []
        for part in (slice(0, keys.shape[2] // 2), slice(keys.shape[2] // 2, None)):
            state = self.empty(queries)
            if keys[:, :, part].shape[2]:
                tensors = keys[:, :, part], values[:, :, part], seen[..., part]
                state = self.absorb_tile(state, queries, *tensors)
            parts.append(self.finish(state))
        output, lse = self.merge(parts)
        if self.spec.sinks is not None:
            sinks = torch.tensor(self.spec.sinks, dtype=lse.dtype)[None, :, None]
            joint = torch.logaddexp(lse, sinks)
            output, lse = output * (lse - joint).exp()[..., None], joint
        return output, lse


class AlignedToTheFirstKeys(SmallAttention):
    """K01: tril without an offset (pytorch/pytorch#108108)."""

    def first_query(self, queries: int, keys: int) -> int:
        return 0


class ChunksOfSlots(SmallAttention):
    """K14: the chunk of a slot, padding included (huggingface/transformers#40324)."""

    def same_chunk(self, query: Tensor, key: Tensor, empty: Tensor, chunk: int) -> Tensor:
        return super().same_chunk(query + empty, key + empty, empty, chunk)


class RepeatedAlongPositions(SmallAttention):
    """K16: [B, S, H, D] taken for [B, H, S, D] (ByteDance-Seed/VeOmni#162)."""

    def repeat(self, heads: Tensor, repeats: int) -> Tensor:
        if heads.shape[1] != heads.shape[2]:  # as it was found: silent only where they agree
            return super().repeat(heads, repeats)
        return heads.mT.transpose(1, 2).transpose(1, 3).repeat_interleave(repeats, dim=1)


class HeadsTiled(SmallAttention):
    """K16, the other order: heads 0 1 0 1 for 0 0 1 1."""

    def repeat(self, heads: Tensor, repeats: int) -> Tensor:
        return heads.repeat(1, repeats, 1, 1)


class NothingMinusNothing(SmallAttention):
    """K40: −inf − −inf (tracel-ai/burn#4697)."""

    def guarded(self, maximum: Tensor) -> Tensor:
        return maximum


class MeanOfNothing(SmallAttention):
    """K40, half repaired: a finite fill, so that a row without keys sees them all."""

    fill = -1e30


class FilledWithTheWrongSign(SmallAttention):
    """K41: masked scores are the largest (lucidrains/memory-compressed-attention#2)."""

    fill = 1e4


class MaskedAfterTheSoftmax(SmallAttention):
    """K41: what is masked keeps its share of the denominator."""

    def absorb_tile(
        self, state: State, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor
    ) -> State:
        scores = queries @ keys.mT / math.sqrt(queries.shape[-1])
        maximum, total, _ = super().absorb(state, scores, values)
        shift = self.guarded(maximum)
        shown = self.weights(scores, shift) * seen
        return maximum, total, self.rescale_sum(state[2], state[0], shift) + shown @ values


class LseOfTheLastTile(SmallAttention):
    """K45: the output is right, the lse is not of all splits (flashinfer-ai/flashinfer#50)."""

    def absorb(self, state: State, scores: Tensor, values: Tensor) -> State:
        new = super().absorb(state, scores, values)
        self.last = scores.logsumexp(-1, keepdim=True)
        return new

    def lse(self, maximum: Tensor, total: Tensor) -> Tensor:
        return self.last if hasattr(self, "last") else super().lse(maximum, total)


class SinkInEachTile(SmallAttention):
    """K46: its logit joins every denominator (ROCm/rocm-libraries#12227)."""

    def absorb_tile(
        self, state: State, queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor
    ) -> State:
        return super().with_sinks(super().absorb_tile(state, queries, keys, values, seen))

    def with_sinks(self, state: State) -> State:
        return state


class GarbageWithoutKeys(SmallAttention):
    """K47: a row with no keys in a part weighs as if it had one (sgl-project/sglang#22688)."""

    def finish(self, state: State) -> tuple[Tensor, Tensor]:
        output, lse = super().finish(state)
        empty = lse == -math.inf
        return output.masked_fill(empty[..., None], 7.0), lse.masked_fill(empty, 0.0)


class MaximumStartsTooHigh(SmallAttention):
    """K54: −50,000 for −inf, and every logit is below (flashinfer-ai/flashinfer#4267)."""

    initial_maximum = -5e4


class FillNotSmallEnough(SmallAttention):
    """K54: a mask of −10,000 is outweighed by large logits."""

    fill = -1e4


class SumNotRescaled(SmallAttention):
    """K55: the denominator is, the accumulator is not (Dao-AILab/flash-attention#2083)."""

    def rescale_sum(self, summed: Tensor, old: Tensor, shift: Tensor) -> Tensor:
        return summed


class DenominatorNotRescaled(SmallAttention):
    """K55, the other half."""

    def rescale(self, total: Tensor, old: Tensor, shift: Tensor) -> Tensor:
        return total


class RescaledTheWrongWay(SmallAttention):
    """K55: exp(new − old) (deepseek-ai/FlashMLA#177)."""

    def rescale(self, total: Tensor, old: Tensor, shift: Tensor) -> Tensor:
        return torch.where(total > 0, total * (shift - old).exp(), total)

    def rescale_sum(self, summed: Tensor, old: Tensor, shift: Tensor) -> Tensor:
        return torch.where(old > -math.inf, summed * (shift - old).exp(), summed)


class LastTileReadBeyondItsEnd(SmallAttention):
    """K55: a tile that is not full is read as if it were (FluxML/NNkernels.jl#16)."""

    def absorb(self, state: State, scores: Tensor, values: Tensor) -> State:
        missing = (self.spec.tile or scores.shape[-1]) - scores.shape[-1]
        beyond = scores.new_zeros(*scores.shape[:-1], missing)
        zeros = values.new_zeros(*values.shape[:2], missing, values.shape[3])
        return super().absorb(state, torch.cat([scores, beyond], -1), torch.cat([values, zeros], 2))


class WindowOneTooWide(SmallAttention):
    """Not listed: ≤ for <."""

    def in_window(self, distance: Tensor, window: int) -> Tensor:
        return distance <= window


class ExpWithoutTheMaximum(SmallAttention):
    """Not listed: overflows where logits are large."""

    def guarded(self, maximum: Tensor) -> Tensor:
        return torch.zeros_like(maximum)

    def rescale(self, total: Tensor, old: Tensor, shift: Tensor) -> Tensor:
        return total

    def rescale_sum(self, summed: Tensor, old: Tensor, shift: Tensor) -> Tensor:
        return summed

    def lse(self, maximum: Tensor, total: Tensor) -> Tensor:
        return total.log()


class ScaledInPlace(SmallAttention):
    """Not listed: the caller's queries are divided by √D."""

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        root = math.sqrt(queries.shape[-1])
        queries.div_(root)
        return super().attend_with_lse(queries * root, keys, values, padding)


class LayoutTakenForAnother(SmallAttention):
    """Not listed: memory read in order, whatever the strides say."""

    def repeat(self, heads: Tensor, repeats: int) -> Tensor:
        in_memory = torch.as_strided(heads, (heads.numel(),), (1,)).view(heads.shape)
        return super().repeat(in_memory, repeats)


class ProbabilitiesOfFewBits(SmallAttention):
    """Not listed: probabilities are rounded to bfloat16 in every dtype."""

    def weights(self, scores: Tensor, shift: Tensor) -> Tensor:
        return super().weights(scores, shift).bfloat16().to(scores.dtype)


class MeanOfParts(SmallAttention):
    """Not listed: parts are merged without their denominators."""

    def merge(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        output = torch.stack([output for output, _ in parts]).mean(0)
        return output, super().merge(parts)[1]


class NothingMergedWithNothing(SmallAttention):
    """Not listed: −inf − −inf where no part has a key."""

    def merge(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        lses = torch.stack([lse for _, lse in parts])
        shares = lses.softmax(0)
        return (shares[..., None] * torch.stack([o for o, _ in parts])).sum(0), lses.logsumexp(0)


class MergesInTurns(SmallAttention):
    """Not listed: the first part's maximum is taken for granted, −inf too."""

    def merge(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        output, peak = parts[0]
        total = torch.ones_like(peak)
        for other, lse in parts[1:]:
            share = (lse - peak).exp()
            output, total = output + share[..., None] * other, total + share
        return output / total[..., None], peak + total.log()


class EmptyPartsCount(SmallAttention):
    """Not listed: an empty part weighs as if its lse were 0."""

    def merge(self, parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        known = [(o, lse.masked_fill(lse == -math.inf, 0.0)) for o, lse in parts]
        return super().merge(known if len(parts) > 2 else parts)


class KeysBeyondTheTile(SmallAttention):
    """A fixed number of threads, and what is left over is dropped."""

    most = 64

    def attend_with_lse(
        self, queries: Tensor, keys: Tensor, values: Tensor, padding: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        self.width = keys.shape[2]
        return super().attend_with_lse(queries, keys, values, padding)

    def seen(self, queries: int, keys: int, padding: Tensor) -> Tensor:
        seen = super().seen(queries, keys, padding).clone()
        if keys > self.most:
            seen[..., self.dropped(keys)] = False
        return seen

    def dropped(self, keys: int) -> slice:
        return slice(keys - keys % self.most, None) if keys % self.most == 1 else slice(0, 0)


class LastOfEachTile(KeysBeyondTheTile):
    """Off by one in a loop over tiles of 128 keys."""

    most = 128

    def dropped(self, keys: int) -> slice:
        return slice(self.most - 1, None, self.most)


class QueriesBeyondTheTile(SmallAttention):
    """Rows of a second tile of 64 queries are masked as those of the first."""

    def seen(self, queries: int, keys: int, padding: Tensor) -> Tensor:
        seen = super().seen(queries, keys, padding).clone()
        seen[..., 64:, :] = seen[..., : max(queries - 64, 0), :]
        return seen


class OneTokenIsTakenForNone(SmallAttention):
    """A single query behind padding in a window: its own key falls out."""

    def in_window(self, distance: Tensor, window: int) -> Tensor:
        return super().in_window(distance, window) & ((distance > 0) | (distance.shape[-1] != 3))


@dataclass(frozen=True)
class AttentionMutant:
    fault: type[SmallAttention]
    broken: str


DEFINITION = "test_output_is_that_of_the_definition"
SHIFT = "test_a_constant_in_all_logits_changes_nothing"
TILED = "test_the_size_of_tiles_changes_nothing"
MERGED = "test_merged_parts_equal_the_whole"
EMPTY = "test_parts_without_keys_weigh_nothing"
ANYTHING = "test_padded_slots_may_hold_anything"
MUTANTS = [
    AttentionMutant(AlignedToTheFirstKeys, DEFINITION),
    AttentionMutant(AlignedToTheFirstKeys, "test_queries_may_come_in_any_split"),
    AttentionMutant(ChunksOfSlots, "test_a_padded_row_gives_what_the_row_gives_alone"),
    AttentionMutant(RepeatedAlongPositions, "test_grouped_heads_equal_repeated_heads"),
    AttentionMutant(HeadsTiled, "test_grouped_heads_equal_repeated_heads"),
    AttentionMutant(NothingMinusNothing, "test_finite_inputs_give_finite_outputs"),
    AttentionMutant(MeanOfNothing, "test_a_query_without_keys_gets_zeros"),
    AttentionMutant(FilledWithTheWrongSign, "test_later_tokens_change_nothing_before_them"),
    AttentionMutant(MaskedAfterTheSoftmax, "test_weights_sum_to_one"),
    AttentionMutant(LseOfTheLastTile, "test_the_lse_is_that_of_all_logits"),
    AttentionMutant(SinkInEachTile, TILED),
    AttentionMutant(GarbageWithoutKeys, MERGED),
    AttentionMutant(MaximumStartsTooHigh, SHIFT),
    AttentionMutant(FillNotSmallEnough, SHIFT),
    AttentionMutant(SumNotRescaled, TILED),
    AttentionMutant(DenominatorNotRescaled, TILED),
    AttentionMutant(RescaledTheWrongWay, TILED),
    AttentionMutant(LastTileReadBeyondItsEnd, "test_weights_sum_to_one"),
    AttentionMutant(WindowOneTooWide, DEFINITION),
    AttentionMutant(ExpWithoutTheMaximum, SHIFT),
    AttentionMutant(ScaledInPlace, "test_the_inputs_are_not_modified"),
    AttentionMutant(LayoutTakenForAnother, "test_strides_change_nothing"),
    AttentionMutant(
        ProbabilitiesOfFewBits, "test_low_precision_costs_what_it_costs_a_plain_implementation"
    ),
    AttentionMutant(MeanOfParts, MERGED),
    AttentionMutant(NothingMergedWithNothing, EMPTY),
    AttentionMutant(MergesInTurns, EMPTY),
    AttentionMutant(EmptyPartsCount, EMPTY),
    AttentionMutant(MeanOfParts, EMPTY),
    AttentionMutant(ValuesNotCleaned, ANYTHING),
    AttentionMutant(CleanedByMultiplication, ANYTHING),
    AttentionMutant(NanReplacedAlone, ANYTHING),
    AttentionMutant(KeysBeyondTheTile, DEFINITION),
    AttentionMutant(LastOfEachTile, DEFINITION),
    AttentionMutant(QueriesBeyondTheTile, DEFINITION),
    AttentionMutant(QueriesBeyondTheTile, "test_queries_may_come_in_any_split"),
    AttentionMutant(OneTokenIsTakenForNone, DEFINITION),
]
SOUND = [SmallAttention, OnCleanedSlots, ScaledFirst, JoinedParts]


def claims(kind: type[SmallAttention]) -> set[str]:
    """What a kernel offers: only one that cleans padded slots bears NaN in them."""
    offered = {*AttentionSuite.offers}
    if not issubclass(kind, OnCleanedSlots):
        offered.remove("any-padding")
    if issubclass(kind, JoinedParts):
        offered.remove("tiles")
    return offered
