"""A small rotary embedding that is right, and the same with faults that real ones have shipped.

Legend: B batch, T tokens, H heads, D head dim, R rotated dimensions, N positions of the table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from infopt_suites.attention import RopeSpec
from infopt_suites.attention.rope_protocol import (
    Dynamic,
    Linear,
    Llama3,
    LongRope,
    Proportional,
    Yarn,
)
from torch import Tensor

AREA = "2 rotary embeddings"


class SmallRope:
    """Cosines and sines in a table by position, as serving engines have them, in float32."""

    def __init__(self, spec: RopeSpec) -> None:
        self.spec = spec
        self.table = self.made_table(self.inverse_frequencies(spec.length))

    def made_table(self, frequencies: Tensor) -> Tensor:
        """Cosines, then sines, [2, N, R/2]."""
        angles = torch.outer(torch.arange(self.spec.length).float(), frequencies)
        return torch.stack([angles.cos(), angles.sin()]) * self.factor()

    def inverse_frequencies(self, length: int) -> Tensor:
        scaling = self.spec.scaling
        plain = self.plain(self.spec.base)
        match scaling:
            case Linear(factor):
                return self.linear(plain, factor)
            case Dynamic(factor, trained) if length > trained:
                rotary = self.spec.rotary_dim
                stretch = self.stretch(factor, length / trained)
                return self.plain(self.spec.base * stretch ** (rotary / (rotary - 2)))
            case LongRope():
                return plain / torch.tensor(self.long_factors(scaling, length))
            case Proportional(share, factor):
                turning = torch.arange(len(plain)) < int(share * len(plain))
                return plain / factor * turning
            case Yarn(factor):
                kept = self.kept_by_yarn(scaling)
            case Llama3(factor):
                kept = self.kept_by_llama(scaling, scaling.trained_length * plain / (2 * math.pi))
            case _:
                return plain
        return torch.lerp(plain / factor, plain, kept)

    def plain(self, base: float) -> Tensor:
        rotary = self.rotary_of_frequencies()
        return 1.0 / base ** (torch.arange(0, self.spec.rotary_dim, 2).float() / rotary)

    def rotary_of_frequencies(self) -> int:
        return self.spec.rotary_dim

    def linear(self, plain: Tensor, factor: float) -> Tensor:
        return plain / factor

    def stretch(self, factor: float, share: float) -> float:
        return factor * share - (factor - 1)

    def long_factors(self, scaling: LongRope, length: int) -> tuple[float, ...]:
        return scaling.long if length > scaling.trained_length else scaling.short

    def kept_by_yarn(self, scaling: Yarn) -> Tensor:
        ends = [
            self.spec.rotary_dim
            * math.log(scaling.trained_length / (turns * 2 * math.pi))
            / (2 * math.log(self.spec.base))
            for turns in (scaling.beta_fast, scaling.beta_slow)
        ]
        if scaling.truncate:
            ends = [math.floor(ends[0]), math.ceil(ends[1])]
        first, last = max(ends[0], 0), min(ends[1], self.spec.rotary_dim - 1)
        pairs = torch.arange(self.spec.rotary_dim // 2).float()
        return 1 - ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)

    def kept_by_llama(self, scaling: Llama3, turns: Tensor) -> Tensor:
        return ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)

    def factor(self) -> float:
        match self.spec.scaling:
            case Yarn(attention_factor=float(given)):
                return self.given(given)
            case Yarn(factor=factor):
                return 0.1 * math.log(factor) + 1
            case LongRope(factor=factor, trained_length=trained):
                return math.sqrt(1 + math.log(factor) / math.log(trained))
        return 1.0

    def given(self, attention_factor: float) -> float:
        return attention_factor

    def rotate(self, queries: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        cosine, sine = self.looked_up(positions)
        return self.turned(queries, cosine, sine), self.turned_keys(keys, cosine, sine)

    def looked_up(self, positions: Tensor) -> Tensor:
        """Cosines and sines [2, B, T, R/2]."""
        if self.spec.sections is None:
            return self.table[:, positions]
        by_axis = self.table[:, positions]  # [2, 3, B, T, R/2]
        chosen = by_axis[:, 0].clone()
        for axis in (1, 2):
            pairs = self.pairs_of_axis(axis)
            chosen[..., pairs] = by_axis[:, axis][..., pairs]
        return chosen

    def pairs_of_axis(self, axis: int) -> slice:
        sizes = self.spec.sections
        assert sizes is not None
        if self.spec.interleaved:
            return slice(axis, 3 * sizes[axis], 3)
        return slice(sum(sizes[:axis]), sum(sizes[: axis + 1]))

    def turned_keys(self, keys: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        return self.turned(keys, cosine, sine)

    def turned(self, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        cosine, sine = (x[:, None].to(heads.dtype) for x in (cosine, sine))
        rotary = self.spec.rotary_dim
        output = heads.clone()
        first, second = self.places()
        output[..., first] = heads[..., first] * cosine - heads[..., second] * sine
        output[..., second] = heads[..., second] * cosine + heads[..., first] * sine
        output[..., rotary:] = self.rest(heads[..., rotary:])
        return output

    def places(self) -> tuple[slice, slice]:
        """Where the two dimensions of all pairs stand."""
        rotary = self.spec.rotary_dim
        if self.spec.pairing == "neighbours":
            return slice(0, rotary, 2), slice(1, rotary, 2)
        return slice(0, rotary // 2), slice(rotary // 2, rotary)

    def rest(self, heads: Tensor) -> Tensor:
        return heads

    def shift(self, keys: Tensor, distance: Tensor) -> Tensor:
        """Turned back as far as ``distance``, by the table without its factor."""
        cosine, sine = self.looked_up(self.back(distance)) / self.factor_of_shift()
        return self.turned(keys, cosine, -sine)

    def back(self, distance: Tensor) -> Tensor:
        return -distance

    def factor_of_shift(self) -> float:
        return self.factor()


# Which dimensions, and which way


class PairsOfTheOtherKind(SmallRope):
    """Weights of one layout in a kernel of the other (huggingface/transformers#25199)."""

    def places(self) -> tuple[slice, slice]:
        rotary = self.spec.rotary_dim
        return slice(0, rotary, 2), slice(1, rotary, 2)


class KeysTurnedBack(SmallRope):
    """Not listed: the sign of the sine for keys."""

    def turned_keys(self, keys: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        return self.turned(keys, cosine, -sine)


class KeysOfOneHeadAlone(SmallRope):
    """Not listed: a grid of query heads over one kv head."""

    def turned_keys(self, keys: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        return torch.cat([self.turned(keys[:, :1], cosine, sine), keys[:, 1:]], dim=1)


class FrequenciesOfTheWholeHead(SmallRope):
    """In part: frequencies are spread over the head's dimension (pie-project/pie#602)."""

    def rotary_of_frequencies(self) -> int:
        return self.spec.head_dim


class RestIsScaled(SmallRope):
    """In part: the attention factor for what is not turned as well."""

    def rest(self, heads: Tensor) -> Tensor:
        return heads * 1.01


class RestThroughHalfPrecision(SmallRope):
    """In part: the buffer of the output has another dtype."""

    def rest(self, heads: Tensor) -> Tensor:
        return heads.bfloat16().to(heads.dtype)


class SectionsOneAfterTheOther(SmallRope):
    """Qwen3-VL's interleaved axes read as Qwen2-VL's."""

    def pairs_of_axis(self, axis: int) -> slice:
        sizes = self.spec.sections
        assert sizes is not None
        return slice(sum(sizes[:axis]), sum(sizes[: axis + 1]))


class WidthForHeight(SmallRope):
    """Not listed: two axes of a picture are swapped."""

    def looked_up(self, positions: Tensor) -> Tensor:
        return super().looked_up(positions if self.spec.sections is None else positions[[0, 2, 1]])


class MixedPair(SmallRope):
    """Not listed: the first product is overwritten before it is read again."""

    def turned(self, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        output = super().turned(heads, cosine, sine)
        first, second = self.places()
        sines = sine[:, None].to(heads.dtype)
        output[..., second] = heads[..., second] * cosine[:, None].to(heads.dtype)
        output[..., second] += output[..., first] * sines
        return output


# Which positions


class PositionsOfTheFirstRow(SmallRope):
    """K12: one row of positions for a batch that is padded on the left."""

    def looked_up(self, positions: Tensor) -> Tensor:
        return super().looked_up(positions[..., :1, :].expand_as(positions))


class CountedFromTheCall(SmallRope):
    """Decoding: a single token stands at 0."""

    def looked_up(self, positions: Tensor) -> Tensor:
        return super().looked_up(positions * (positions.shape[-1] > 1))


class SlotsForPositions(SmallRope):
    """Not listed: positions run on from the row's first one."""

    def looked_up(self, positions: Tensor) -> Tensor:
        slots = positions[..., :1] + torch.arange(positions.shape[-1])
        return super().looked_up(slots.clamp(max=self.spec.length - 1))


class PositionsInHalfPrecision(SmallRope):
    """bfloat16 holds integers up to 256 (EleutherAI/gpt-neox#1016)."""

    def made_table(self, frequencies: Tensor) -> Tensor:
        positions = torch.arange(self.spec.length).bfloat16().float()
        angles = torch.outer(positions, frequencies)
        return torch.stack([angles.cos(), angles.sin()]) * self.factor()


class FrequenciesInHalfPrecision(SmallRope):
    """model.half() casts the buffer of frequencies (sgl-project/sglang-jax#1472)."""

    def made_table(self, frequencies: Tensor) -> Tensor:
        return super().made_table(frequencies.bfloat16().float())


class TableEnds(SmallRope):
    """Not listed: positions behind the table's end read its last row."""

    def looked_up(self, positions: Tensor) -> Tensor:
        return super().looked_up(positions.clamp(max=2047))


class DistanceIsRounded(SmallRope):
    """Not listed: angles by steps of 64 positions and within them, the step forgets its rest."""

    def looked_up(self, positions: Tensor) -> Tensor:
        return super().looked_up(positions - positions % 64 * (positions >= 64))


# Which frequencies


class BaseSlightlyOff(SmallRope):
    """Not listed: 10,001 for 10,000, which no text of 60 tokens shows."""

    def plain(self, base: float) -> Tensor:
        return super().plain(base * 1.0001)


class PositionsAreMultiplied(SmallRope):
    """Linear scaling, the other way round."""

    def linear(self, plain: Tensor, factor: float) -> Tensor:
        return plain * factor


class NotScaledBeyondTheTrained(SmallRope):
    """Dynamic scaling without the length."""

    def stretch(self, factor: float, share: float) -> float:
        return factor


class RampTheWrongWay(SmallRope):
    """YaRN: fast pairs are interpolated, slow ones stay."""

    def kept_by_yarn(self, scaling: Yarn) -> Tensor:
        return 1 - super().kept_by_yarn(scaling)


class NoAttentionFactor(SmallRope):
    """YaRN and LongRoPE: frequencies alone (GaijinEntertainment/daScript#3479)."""

    def factor(self) -> float:
        return 1.0


class GivenAttentionFactorIsIgnored(SmallRope):
    """YaRN: the formula, whatever the checkpoint says (vllm-project/vllm#48351)."""

    def given(self, attention_factor: float) -> float:
        assert isinstance(self.spec.scaling, Yarn)
        return 0.1 * math.log(self.spec.scaling.factor) + 1


class GivenAttentionFactorTwice(SmallRope):
    """YaRN: on top of the formula's own (sgl-project/sglang#33558)."""

    def factor(self) -> float:
        factor = super().factor()
        return factor * (0.1 * math.log(8) + 1) if isinstance(self.spec.scaling, Yarn) else factor


class AttentionFactorForQueriesAlone(SmallRope):
    """YaRN: √ of the temperature on one side."""

    def turned_keys(self, keys: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        return super().turned_keys(keys, cosine / self.factor(), sine / self.factor())


class BandsWithoutATransition(SmallRope):
    """Llama 3: kept or interpolated, nothing between."""

    def kept_by_llama(self, scaling: Llama3, turns: Tensor) -> Tensor:
        return (turns > scaling.high).float()


class LongAtTheTrainedLength(SmallRope):
    """LongRoPE: ≥ for >."""

    def long_factors(self, scaling: LongRope, length: int) -> tuple[float, ...]:
        return scaling.long if length >= scaling.trained_length else scaling.short


# What stays behind


class TableGrowsAndStays(SmallRope):
    """Dynamic scaling, made anew for longer calls alone (huggingface/transformers#25104)."""

    longest = 0

    def looked_up(self, positions: Tensor) -> Tensor:
        reached = int(positions.max()) + 1
        if isinstance(self.spec.scaling, Dynamic) and reached > self.longest:
            self.longest = reached
            self.table = self.made_table(self.inverse_frequencies(reached))
        return super().looked_up(positions)


class DtypeOfTheFirstCall(SmallRope):
    """Not listed: the table is cast where it is first used."""

    cast = False

    def turned(self, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        if not self.cast:
            self.table, self.cast = self.table.to(heads.dtype).float(), True
        return super().turned(heads, cosine, sine)


class TableOfAllInstances(SmallRope):
    """Not listed: cached by the head's dimension, whatever the base and the scaling."""

    tables: ClassVar[dict[Any, Tensor]] = {}

    def made_table(self, frequencies: Tensor) -> Tensor:
        key = self.spec.scaling, self.spec.rotary_dim, self.spec.length
        return self.tables.setdefault(key, super().made_table(frequencies))


# How it is computed


class ShiftedForward(SmallRope):
    """Context shift: the distance's sign."""

    def shift(self, keys: Tensor, distance: Tensor) -> Tensor:
        cosine, sine = self.looked_up(self.back(distance)) / self.factor_of_shift()
        return self.turned(keys, cosine, sine)


class ShiftedWithTheFactorAgain(SmallRope):
    """Context shift: keys grow by the attention factor each time."""

    def factor_of_shift(self) -> float:
        return 1.0


class TurnedInPlace(SmallRope):
    """Not listed: the projection's memory is reused."""

    def turned(self, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        heads.copy_(super().turned(heads, cosine, sine))
        return heads


class LayoutTakenForAnother(SmallRope):
    """Not listed: memory read in order, whatever the strides say."""

    def turned(self, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        in_memory = torch.as_strided(heads, (heads.numel(),), (1,)).view(heads.shape)
        return super().turned(in_memory, cosine, sine)


@dataclass(frozen=True)
class RopeMutant:
    fault: type[SmallRope]
    broken: str


TURNED = "test_each_pair_is_turned_by_its_angle"
RELATIVE = "test_a_product_depends_on_the_distance_alone"
LENGTH = "test_a_pair_keeps_its_length"
REST = "test_what_is_not_turned_passes_unchanged"
ALONE = "test_a_token_alone_is_turned_as_among_others"
FAR = "test_far_positions_cost_what_their_angles_cost"
TRACE = "test_earlier_calls_leave_no_trace"
SHIFTED = "test_shifted_keys_are_those_of_their_new_positions"
MUTANTS = [
    RopeMutant(PairsOfTheOtherKind, TURNED),
    RopeMutant(KeysTurnedBack, RELATIVE),
    RopeMutant(KeysOfOneHeadAlone, RELATIVE),
    RopeMutant(KeysOfOneHeadAlone, TURNED),
    RopeMutant(FrequenciesOfTheWholeHead, TURNED),
    RopeMutant(RestIsScaled, REST),
    RopeMutant(RestThroughHalfPrecision, REST),
    RopeMutant(SectionsOneAfterTheOther, TURNED),
    RopeMutant(WidthForHeight, TURNED),
    RopeMutant(MixedPair, LENGTH),
    RopeMutant(PositionsOfTheFirstRow, TURNED),
    RopeMutant(CountedFromTheCall, ALONE),
    RopeMutant(SlotsForPositions, TURNED),
    RopeMutant(PositionsInHalfPrecision, FAR),
    RopeMutant(FrequenciesInHalfPrecision, FAR),
    RopeMutant(TableEnds, FAR),
    RopeMutant(DistanceIsRounded, RELATIVE),
    RopeMutant(BaseSlightlyOff, FAR),
    RopeMutant(PositionsAreMultiplied, TURNED),
    RopeMutant(NotScaledBeyondTheTrained, TURNED),
    RopeMutant(RampTheWrongWay, TURNED),
    RopeMutant(NoAttentionFactor, LENGTH),
    RopeMutant(GivenAttentionFactorIsIgnored, LENGTH),
    RopeMutant(GivenAttentionFactorTwice, TURNED),
    RopeMutant(AttentionFactorForQueriesAlone, LENGTH),
    RopeMutant(BandsWithoutATransition, TURNED),
    RopeMutant(LongAtTheTrainedLength, TURNED),
    RopeMutant(TableGrowsAndStays, TRACE),
    RopeMutant(DtypeOfTheFirstCall, TRACE),
    RopeMutant(TableOfAllInstances, TRACE),
    RopeMutant(ShiftedForward, SHIFTED),
    RopeMutant(ShiftedWithTheFactorAgain, SHIFTED),
    RopeMutant(TurnedInPlace, "test_the_inputs_are_not_modified"),
    RopeMutant(LayoutTakenForAnother, "test_strides_change_nothing"),
]
