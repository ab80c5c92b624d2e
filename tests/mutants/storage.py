"""A small bit packing and small code books that are right, and the same with shipped faults.

Legend: n codes or numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from infopt_reference.quantization import CODEBOOKS
from torch import Tensor
from torch.nn import functional

PACKING, CODEBOOK = "1 packing", "1 code books"


class SmallPacking:
    """One Python integer for all codes: code i at bit i · bits."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        stream = 0
        for place, code in enumerate(codes.tolist()):
            stream |= self.field(code, bits, codes.dtype is torch.int8) << place * bits
        size = math.ceil(len(codes) * bits / 8)
        return torch.tensor(list(stream.to_bytes(size, "little")), dtype=torch.uint8)

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        stream = int.from_bytes(bytes(packed.tolist()), "little")
        fields = [stream >> place * bits & 2**bits - 1 for place in range(count)]
        codes = [self.code(field, bits, signed) for field in fields]
        return torch.tensor(codes, dtype=torch.int8 if signed else torch.uint8)

    def field(self, code: int, bits: int, signed: bool) -> int:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        if not low <= code <= high:
            raise ValueError(f"code {code} does not fit {bits} bits")
        return code & 2**bits - 1

    def code(self, field: int, bits: int, signed: bool) -> int:
        return field - 2**bits if signed and field >> bits - 1 else field


class ZeroWrapsAround(SmallPacking):
    """Q06: stored less one, read plus one, 0 comes back as 2^bits (AutoGPTQ/AutoGPTQ#325)."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        return super().field(code, bits, signed) - 1 & 2**bits - 1

    def code(self, field: int, bits: int, signed: bool) -> int:
        return min(super().code(field, bits, signed) + 1, 2**bits - 1 if not signed else 127)


class UpperBitsNotMasked(SmallPacking):
    """Q07: a negative code's sign bits overwrite its neighbour (keras-team/keras#22338)."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        return super().field(code, bits, signed) and code & 255


class OverflowReachesNeighbour(SmallPacking):
    """Q07: code 16 of a rounding that went too far is or-ed in (intel/auto-round#2273)."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        return code & 255


class WordsOfWholeCodes(SmallPacking):
    """Q08: 32 // 3 = 10 codes a word (ModelCloud/GPTQModel#2984)."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        packed = super().pack(codes, bits)
        words = math.ceil(len(codes) / (32 // bits))
        spare = max(0, 4 * words - len(packed))
        return torch.cat([packed, torch.zeros(spare, dtype=torch.uint8)])

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        return super().unpack(packed[: math.ceil(count * bits / 8)], bits, count, signed)


class StraddlingCodeLost(SmallPacking):
    """Not listed: of a code in two bytes the upper bits are left out."""

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        codes = [
            int(packed[place * bits // 8]) >> place * bits % 8 & 2**bits - 1
            for place in range(count)
        ]
        signs = [self.code(code, bits, signed) for code in codes]
        return torch.tensor(signs, dtype=torch.int8 if signed else torch.uint8)


class SignNotExtended(SmallPacking):
    """Not listed: −1 comes back as 2^bits − 1."""

    def code(self, field: int, bits: int, signed: bool) -> int:
        return field if bits < 8 else super().code(field, bits, signed)


class OneByteACode(SmallPacking):
    """Q51: not packed at all (google/qwix#328)."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        return codes.clone()

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        return packed[:count]


class Saturating(SmallPacking):
    """Sound in another way: what does not fit becomes the nearest that does."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return super().field(min(max(code, low), high), bits, signed)


class SaturatesAtTheByte(Saturating):
    """Q32: clamped to the byte's range and masked: 3 becomes −1 (google/XNNPACK#10460)."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        return min(max(code, -128), 255) & 2**bits - 1


class OffsetInPlace(SmallPacking):
    """Not listed: signed codes are made unsigned where they lie."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        packed = super().pack(codes, bits)
        codes.add_(1).clamp_(max=1)
        return packed


class HighFirst(SmallPacking):
    """Sound in another way: the first code in the highest bits."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        size = math.ceil(len(codes) * bits / 8)
        stream = 0
        for code in codes.tolist():
            stream = stream << bits | self.field(code, bits, codes.dtype is torch.int8)
        stream <<= 8 * size - bits * len(codes)
        return torch.tensor(list(stream.to_bytes(size, "big")), dtype=torch.uint8)

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        stream = int.from_bytes(bytes(packed.tolist()), "big") >> 8 * len(packed) - bits * count
        fields = [stream >> (count - 1 - place) * bits & 2**bits - 1 for place in range(count)]
        codes = [self.code(field, bits, signed) for field in fields]
        return torch.tensor(codes, dtype=torch.int8 if signed else torch.uint8)


class WholeCodes(SmallPacking):
    """Sound in another way: a word of 32 bits holds whole codes alone."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        held = 32 // bits
        words = []
        for part in codes.split(held):
            word = super().pack(part, bits)
            words.append(functional.pad(word, (0, 4 - len(word))))
        return torch.cat(words)

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        held = 32 // bits
        parts = [
            super(WholeCodes, self).unpack(word, bits, held, signed) for word in packed.view(-1, 4)
        ]
        return torch.cat(parts)[:count]


class NibblesSwappedBothWays(SmallPacking):
    """Not listed: writer and reader agree, and no kernel does."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        packed = super().pack(codes, bits)
        return packed >> 4 | packed << 4

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        return super().unpack(packed >> 4 | packed << 4, bits, count, signed)


class BytesOfWordsSwapped(SmallPacking):
    """Not listed: words of two bytes in the other byte order."""

    def swapped(self, packed: Tensor) -> Tensor:
        even = len(packed) // 2 * 2
        return torch.cat([packed[:even].view(-1, 2).flip(1).reshape(-1), packed[even:]])

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        return self.swapped(super().pack(codes, bits))

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        return super().unpack(self.swapped(packed), bits, count, signed)


class SignsAsOffsets(SmallPacking):
    """Not listed: signed codes are stored with an offset, where two's complement is meant."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        return super().field(code, bits, signed) ^ (2 ** (bits - 1) if signed else 0)

    def code(self, field: int, bits: int, signed: bool) -> int:
        return super().code(field ^ (2 ** (bits - 1) if signed else 0), bits, signed)


class WrapsAround(SmallPacking):
    """Not listed: masked without a check, code 16 becomes 0."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        return code & 2**bits - 1


class LargestCheckedAlone(SmallPacking):
    """Not listed: too large is refused, too small wraps around."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        if code < 0:
            return code & 2**bits - 1
        return super().field(code, bits, signed)


class RefusesAndSaturates(Saturating):
    """Not listed: unsigned codes are checked, signed ones saturate."""

    def field(self, code: int, bits: int, signed: bool) -> int:
        if not signed:
            return SmallPacking.field(self, code, bits, signed)
        return super().field(code, bits, signed)


class StorageOfOneByteACode(SmallPacking):
    """Not listed: a view of a buffer that was made for one code a byte."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        packed = super().pack(codes, bits)
        buffer = torch.zeros(len(codes) + len(packed), dtype=torch.uint8)
        buffer[: len(packed)] = packed
        return buffer[: len(packed)]


@dataclass(frozen=True)
class PackingMutant:
    fault: type[SmallPacking]
    broken: str
    capability: str = "refuses-overflow"

    @property
    def attributes(self) -> dict[str, Any]:
        claimed = {self.capability} if self.capability else set()
        return {"capabilities": claimed, "bit_order": "low-first"}


GOLDEN = "test_bytes_are_those_of_the_format"
SPARED = "test_a_code_that_does_not_fit_spares_its_neighbours"
SAME = "test_unpacking_gives_back_what_was_packed"
PACKING_MUTANTS = [
    PackingMutant(ZeroWrapsAround, "test_every_code_survives_as_a_zero_point"),
    PackingMutant(UpperBitsNotMasked, "test_every_pair_of_neighbours_survives"),
    PackingMutant(OverflowReachesNeighbour, "test_a_code_that_does_not_fit_is_refused"),
    PackingMutant(WordsOfWholeCodes, "test_packed_codes_take_their_bits_and_no_more"),
    PackingMutant(StraddlingCodeLost, SAME),
    PackingMutant(SignNotExtended, SAME),
    PackingMutant(OneByteACode, "test_packed_codes_take_their_bits_and_no_more"),
    PackingMutant(
        SaturatesAtTheByte, "test_a_code_that_does_not_fit_becomes_the_nearest", "saturates"
    ),
    PackingMutant(OffsetInPlace, "test_the_codes_are_not_modified"),
    PackingMutant(NibblesSwappedBothWays, GOLDEN),
    PackingMutant(BytesOfWordsSwapped, GOLDEN),
    PackingMutant(SignsAsOffsets, GOLDEN),
    PackingMutant(WrapsAround, SPARED, ""),
    PackingMutant(OverflowReachesNeighbour, SPARED, ""),
    PackingMutant(LargestCheckedAlone, SPARED, ""),
    PackingMutant(RefusesAndSaturates, SPARED, ""),
    PackingMutant(StorageOfOneByteACode, "test_packed_codes_take_their_bits_and_no_more"),
]

SOUND_PACKINGS: dict[str, tuple[SmallPacking, dict[str, Any]]] = {
    "low-first": (
        SmallPacking(), {"capabilities": {"refuses-overflow"}, "bit_order": "low-first"}
    ),
    "high-first": (HighFirst(), {"bit_order": "high-first", "bits": (1, 2, 3, 4, 8)}),
    "saturating": (Saturating(), {"capabilities": {"saturates"}}),
    "whole codes": (
        WholeCodes(), {"unit_bits": 32, "straddles": False, "bit_order": "low-first"}
    ),
    "unchecked": (WrapsAround(), {"capabilities": {"unchecked"}}),
}  # fmt: skip


class SmallBook:
    """A table; numbers go to the nearest level, from a tie to the lower one."""

    def __init__(self, name: str = "nf4") -> None:
        self.table = torch.tensor(CODEBOOKS[name].values, dtype=torch.float32)  # type: ignore[union-attr]

    def encode(self, values: Tensor) -> Tensor:
        return self.order(values.clamp(-1, 1).double())

    def order(self, values: Tensor) -> Tensor:
        levels, codes = self.table.double().sort()
        return codes[torch.bucketize(values, self.boundaries(levels))].to(torch.uint8)

    def boundaries(self, levels: Tensor) -> Tensor:
        return (levels[1:] + levels[:-1]) / 2

    def decode(self, codes: Tensor) -> Tensor:
        return self.table[codes.long()]


class TableOfFifteen(SmallBook):
    """Q58: symmetric, with one level twice (artidoro/qlora#299)."""

    def __init__(self) -> None:
        super().__init__()
        negative = self.table[:8]
        self.table = torch.cat([negative, -negative[:-1].flip(0), torch.ones(1)])


class BoundariesNotMidpoints(SmallBook):
    """Q58: the geometric mean where the arithmetic one is meant (bitsandbytes#1598 explains)."""

    def boundaries(self, levels: Tensor) -> Tensor:
        middles = super().boundaries(levels)
        means = (levels[1:] * levels[:-1]).clamp(min=0).sqrt() * levels[1:].sign()
        return torch.where(means != 0, means, middles)


class SearchByFloor(SmallBook):
    """Q58: the level below (intel/neural-compressor#1241)."""

    def boundaries(self, levels: Tensor) -> Tensor:
        return levels[1:]


class CodesNotSortedBack(SmallBook):
    """Not listed: FP4's codes in the order of its levels."""

    def __init__(self) -> None:
        super().__init__("fp4")

    def order(self, values: Tensor) -> Tensor:
        levels = self.table.double().sort().values
        return torch.bucketize(values, self.boundaries(levels)).to(torch.uint8)


class TiesUp(SmallBook):
    """Not listed: the upper level of a tie, in a format that says the lower."""

    def order(self, values: Tensor) -> Tensor:
        levels, codes = self.table.double().sort()
        places = torch.bucketize(values, self.boundaries(levels), right=True)
        return codes[places].to(torch.uint8)


class SmallFloat8:
    """E4M3FN by torch's cast, saturating."""

    form = torch.float8_e4m3fn

    def encode(self, values: Tensor) -> Tensor:
        limit = torch.finfo(self.form).max
        return self.cast(values.clamp(-limit, limit))

    def cast(self, values: Tensor) -> Tensor:
        return values.to(self.form).view(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.view(self.form).float()


class TopBinadeSaturated(SmallFloat8):
    """Q30: everything from 256 on becomes 448 (sgl-project/sglang#40581)."""

    def cast(self, values: Tensor) -> Tensor:
        largest = torch.where(values < 0, 254, 126).to(torch.uint8)
        return torch.where(values.abs() >= 256, largest, super().cast(values))


class HalfUp(SmallFloat8):
    """Q30, the other half: ties away from 0 (sgl-project/sglang#40581)."""

    def cast(self, values: Tensor) -> Tensor:
        up = torch.nextafter(values.abs(), torch.tensor(math.inf)).copysign(values)
        return super().cast(torch.where(values.abs() > 0, up, values).clamp(-448, 448))


class NotClamped(SmallFloat8):
    """Q31: overflow is NaN (jax-ml/ml_dtypes#260)."""

    def encode(self, values: Tensor) -> Tensor:
        beyond = torch.where(values < 0, 255, 127).to(torch.uint8)
        return torch.where(values.abs() > 464, beyond, super().encode(values))


class TopBinadeIsNan(SmallFloat8):
    """Q32: classified as IEEE formats are (google/XNNPACK#10460)."""

    def decode(self, codes: Tensor) -> Tensor:
        return torch.where((codes & 0x78) == 0x78, math.nan, super().decode(codes))


class SubnormalsFlushed(SmallFloat8):
    """Not listed: what is below the smallest normal number becomes 0."""

    def cast(self, values: Tensor) -> Tensor:
        return super().cast(torch.where(values.abs() < 2.0**-6, 0.0, values))


class SignOfSmallNumbersLost(SmallFloat8):
    """Not listed: the sign is taken from the rounded mantissa."""

    def cast(self, values: Tensor) -> Tensor:
        codes = super().cast(values)
        return torch.where(values.abs() < 2.0**-6, codes & 127, codes)


class NanIsTheLargest(SmallFloat8):
    """Not listed: NaN is taken for an overflow, and saturates."""

    def encode(self, values: Tensor) -> Tensor:
        return super().encode(values.nan_to_num(nan=math.inf))


class CheckedBook(SmallBook):
    """Sound: it refuses what has no nearest level."""

    def encode(self, values: Tensor) -> Tensor:
        if self.seen(values).isnan().any():
            raise ValueError("a number is NaN")
        return super().encode(values)

    def seen(self, values: Tensor) -> Tensor:
        return values


class FirstIsChecked(CheckedBook):
    """Not listed: of a block, the first number is looked at."""

    def seen(self, values: Tensor) -> Tensor:
        return values[:1]


@dataclass(frozen=True)
class CodebookMutant:
    fault: type[Any]
    broken: str
    sound: str  # whose levels and ties it claims


NEAREST = "test_each_number_gets_the_nearest_level"
CODEBOOK_MUTANTS = [
    CodebookMutant(TableOfFifteen, "test_levels_are_distinct_and_hold_zero_and_both_ends", "nf4"),
    CodebookMutant(TableOfFifteen, "test_every_code_decodes_to_its_level", "nf4"),
    CodebookMutant(BoundariesNotMidpoints, NEAREST, "nf4"),
    CodebookMutant(SearchByFloor, NEAREST, "nf4"),
    CodebookMutant(CodesNotSortedBack, "test_levels_encode_to_their_own_codes", "fp4"),
    CodebookMutant(TiesUp, "test_midpoints_go_where_the_format_sends_them", "nf4"),
    CodebookMutant(TopBinadeSaturated, NEAREST, "e4m3fn"),
    CodebookMutant(HalfUp, "test_midpoints_go_where_the_format_sends_them", "e4m3fn"),
    CodebookMutant(NotClamped, "test_numbers_beyond_the_ends_get_the_ends", "e4m3fn"),
    CodebookMutant(TopBinadeIsNan, "test_every_code_decodes_to_its_level", "e4m3fn"),
    CodebookMutant(SubnormalsFlushed, NEAREST, "e4m3fn"),
    CodebookMutant(SignOfSmallNumbersLost, "test_encoding_is_monotone_and_keeps_signs", "e4m3fn"),
    CodebookMutant(SearchByFloor, "test_zero_encodes_to_zero", "nf4"),
    CodebookMutant(CodesNotSortedBack, "test_zero_encodes_to_zero", "fp4"),
    CodebookMutant(NanIsTheLargest, "test_nan_stays_nan", "e4m3fn"),
    CodebookMutant(FirstIsChecked, "test_nan_is_refused", "checked"),
]


def claims(name: str) -> dict[str, Any]:
    """Class attributes of a suite on one of the sound books."""
    common = {"capabilities": {"saturates"}}
    if name == "e8m0":
        levels = (*(2.0 ** (code - 127) for code in range(255)), math.nan)
        return {**common, "levels": levels, "ties": "down"}
    if name == "signs":
        return {**common, "levels": tuple(SmallSigns().table.tolist()), "ties": "down"}
    if name == "e4m3fn":
        levels = tuple(SmallFloat8().decode(torch.arange(256, dtype=torch.uint8)).tolist())
        return {"capabilities": {"saturates", "keeps-nan"}, "levels": levels, "ties": "even"}
    if name == "checked":
        return {**claims("nf4"), "capabilities": {"saturates", "refuses-nan"}}
    return {**common, "levels": tuple(SmallBook(name).table.tolist()), "ties": "down"}


class SmallExponents:
    """e8m0, the scale of MX formats: powers of two from 2^−127 on and NaN; neither 0 nor signs."""

    def encode(self, values: Tensor) -> Tensor:
        scaled, exponents = torch.frexp(values.double().clamp(2.0**-127, 2.0**127))
        return (exponents + 126 + (scaled > 0.75)).clamp(max=254).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        levels = 2.0 ** (codes.double() - 127)
        return torch.where(codes == 255, math.nan, levels).float()


class ExponentsRoundedUp(SmallExponents):
    """ml_dtypes: what lies between the two smallest levels goes to the upper one."""

    def encode(self, values: Tensor) -> Tensor:
        codes = super().encode(values)
        return torch.where((values > 2.0**-127) & (codes == 0), 1, codes.int()).to(torch.uint8)


class ExponentsFloored(SmallExponents):
    """Not listed: the power below."""

    def encode(self, values: Tensor) -> Tensor:
        _, exponents = torch.frexp(values.double().clamp(2.0**-127, 2.0**127))
        return (exponents + 126).to(torch.uint8)


class ZeroForTheSmallest(SmallExponents):
    """Not listed: a zero that the format does not have."""

    def decode(self, codes: Tensor) -> Tensor:
        return torch.where(codes == 0, 0.0, super().decode(codes))


class SmallSigns(SmallBook):
    """Four levels without a 0, as codes of two bits have them."""

    def __init__(self) -> None:
        self.table = torch.tensor([-1.0, -0.25, 0.5, 1.0])


SOUND_BOOKS = {
    "nf4": SmallBook("nf4"),
    "fp4": SmallBook("fp4"),
    "e4m3fn": SmallFloat8(),
    "e8m0": SmallExponents(),
    "signs": SmallSigns(),
    "checked": CheckedBook(),
}
CODEBOOK_MUTANTS += [
    CodebookMutant(ExponentsRoundedUp, NEAREST, "e8m0"),
    CodebookMutant(ExponentsFloored, NEAREST, "e8m0"),
    CodebookMutant(
        ZeroForTheSmallest, "test_levels_are_distinct_and_hold_zero_and_both_ends", "e8m0"
    ),
]
