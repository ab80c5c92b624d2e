"""PackingSuite: do codes of few bits survive being stored side by side?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from ..base import Suite, requires
from ..properties import EXAMPLES, for_all, tried
from ..tally import each_case
from .protocol import Packing


@dataclass(frozen=True)
class CodesCase:
    """Codes [n] of some bits; int8 if signed, else uint8."""

    bits: int
    codes: Tensor

    @property
    def signed(self) -> bool:
        return self.codes.dtype is torch.int8

    def __repr__(self) -> str:
        kind = "signed" if self.signed else "unsigned"
        return f"{len(self.codes)} {kind} codes of {self.bits} bits: {self.codes.tolist()}"


on_codes = tried("packing")  # a property of the packing and a `CodesCase`


class PackingSuite(Suite):
    """Properties of bit packing, for every width of ``bits`` and signedness of ``signs``.

    Give a fixture ``packing``: a `protocol.Packing`. Class attributes say which format it is:

    | attribute | default | meaning |
    |---|---|---|
    | ``bits`` | (2, 3, 4, 8) | widths of codes |
    | ``signs`` | (False, True) | whether codes are signed |
    | ``count_multiple`` | 1 | numbers of codes are multiples of it: 8, 32, … for whole words |
    | ``unit_bits`` | 8 | packed codes take whole units of so many bits |
    | ``straddles`` | True | whether a code may lie in two units |
    | ``bit_order`` | "" | "low-first" or "high-first": which bits of a byte the first code takes |
    | ``examples`` | 40 | drawn cases of a property |
    """

    topic = "packing"
    fixture = "packing"
    fixture_returns = "an object with pack and unpack"
    offers = {  # noqa: RUF012  # read only
        "refuses-overflow": "a code that needs more bits raises ValueError",
        "saturates": "a code that needs more bits is stored as the nearest that fits",
        "unchecked": "a code that needs more bits is the caller's fault; anything may come of it",
    }
    bits: ClassVar[Sequence[int]] = (2, 3, 4, 8)
    signs: ClassVar[Sequence[bool]] = (False, True)
    count_multiple: ClassVar[int] = 1
    unit_bits: ClassVar[int] = 8
    straddles: ClassVar[bool] = True
    bit_order: ClassVar[str] = ""
    examples: ClassVar[int] = EXAMPLES
    methods = {"": ("pack", "unpack")}  # noqa: RUF012  # read only

    @classmethod
    def check_declaration(cls) -> None:
        super().check_declaration()
        if cls.bit_order not in ("", "low-first", "high-first"):
            raise TypeError(f"bit_order is {cls.bit_order!r}, not 'low-first', 'high-first' or ''")
        ways = sorted({"refuses-overflow", "saturates", "unchecked"} & {*cls.capabilities})
        if len(ways) > 1:
            raise TypeError(f"a code that does not fit has one end; claim one of {ways}")

    @on_codes()
    def test_unpacking_gives_back_what_was_packed(self, packing: Packing, case: CodesCase) -> None:
        """Usual causes: a buffer sized by 32 // bits, codes that straddle two words, a tail that
        is dropped, sign bits that are not extended."""
        packed = packing.pack(case.codes, case.bits)
        restored = packing.unpack(packed, case.bits, len(case.codes), case.signed)
        assert restored.dtype is case.codes.dtype
        assert torch.equal(restored, case.codes), f"came back as {restored.tolist()}"

    def test_every_pair_of_neighbours_survives(self, packing: Packing) -> None:
        """Exhaustive: each code beside each other one, in both places.

        Usual causes: a high nibble shifted with its sign, a low nibble that is not masked.
        """
        for bits, signed in each_case(self._widths()):
            codes = _all_codes(min(bits, 5), signed)
            pairs = torch.tensor(list(itertools.product(codes.tolist(), repeat=2)))
            flat = pairs.to(codes.dtype).reshape(-1)
            for start in (0, 1):
                case = self._filled(CodesCase(bits, flat[start:]))
                packed = packing.pack(case.codes, bits)
                restored = packing.unpack(packed, bits, len(case.codes), signed)
                wrong = (restored != case.codes).nonzero()
                assert not len(wrong), (
                    f"{bits} bits: code {case.codes[wrong[0]].item()} came back as "
                    f"{restored[wrong[0]].item()}"
                )

    def test_every_code_survives_as_a_zero_point(self, packing: Packing) -> None:
        """Each code alone, all others 0, at every place: 0 and the largest code too.

        Usual causes: a convention that stores zero points less one and lets 0 wrap around.
        """
        for bits, signed in each_case(self._widths()):
            places = max(self.count_multiple, 8)
            for code in _all_codes(bits, signed).tolist():
                for place in {0, 1, places - 1}:
                    codes = torch.zeros(places, dtype=torch.int8 if signed else torch.uint8)
                    codes[place] = code
                    packed = packing.pack(codes, bits)
                    restored = packing.unpack(packed, bits, places, signed)
                    assert torch.equal(restored, codes), (
                        f"{bits} bits: {codes.tolist()} came back as {restored.tolist()}"
                    )

    @on_codes()
    def test_packed_codes_take_their_bits_and_no_more(
        self, packing: Packing, case: CodesCase
    ) -> None:
        """ceil(n · bits / 8) bytes, rounded up to whole units; without straddling, to whole codes.

        Usual causes: one code a byte, ten 3-bit codes in a word, a row of padding.
        """
        packed = packing.pack(case.codes, case.bits)
        kept = packed.untyped_storage().nbytes()
        units = math.ceil(len(case.codes) * case.bits / self.unit_bits)
        if not self.straddles:
            units = math.ceil(len(case.codes) / (self.unit_bits // case.bits))
        allowed, own = units * self.unit_bits // 8, packed.numel() * packed.itemsize
        held = f"{own} bytes" + (f" in a storage of {kept}" if kept > own else "")
        assert kept <= allowed, f"{len(case.codes)} codes take {held}, not {allowed}"

    def test_bytes_are_those_of_the_format(self, packing: Packing) -> None:
        """Packed by others, or for a kernel of others, codes must lie where the format has them.

        Held against one large number, code i at bit i · bits from the end that ``bit_order`` names.
        Usual causes: nibbles swapped by writer and reader alike, words in another byte order.
        """
        for bits, signed in each_case(self._widths() if self.bit_order else ()):
            codes = self._filled(CodesCase(bits, _all_codes(bits, signed).roll(1)[:37])).codes
            packed = packing.pack(codes, bits)
            found = bytes(packed.contiguous().view(torch.uint8).flatten().tolist())
            expected = self._stream(codes, bits)
            assert found[: len(expected)] == expected, (
                f"{bits} bits, {codes[:8].tolist()} …: bytes {found[:8].hex(' ')} …, not "
                f"{expected[:8].hex(' ')} …"
            )
            assert not any(found[len(expected) :]), f"{bits} bits: padding is not 0"

    @on_codes()
    def test_the_codes_are_not_modified(self, packing: Packing, case: CodesCase) -> None:
        """Usual causes: an offset that is added to signed codes in place; a result that shares
        memory with its input."""
        codes = case.codes.clone()
        packed = packing.pack(codes, case.bits)
        assert torch.equal(codes, case.codes), "packing changed the codes themselves"
        before = packed.clone()
        packing.unpack(packed, case.bits, len(codes), case.signed)
        assert torch.equal(packed, before), "unpacking changed the packed codes"

    @requires("refuses-overflow")
    def test_a_code_that_does_not_fit_is_refused(self, packing: Packing) -> None:
        """Else its upper bits overwrite a neighbour, or it wraps around silently.

        Usual causes: or-ing shifted codes together without a mask or a check.
        """
        for bits, signed in each_case(self._widths()):
            for code in _codes_outside(bits, signed):
                codes = self._filled(CodesCase(bits, _as_codes([0, code], signed))).codes
                with pytest.raises(ValueError, match=r"\d"):
                    packing.pack(codes, bits)

    @requires("saturates")
    def test_a_code_that_does_not_fit_becomes_the_nearest(self, packing: Packing) -> None:
        """Usual causes: clamping to the byte's range and masking afterwards: 3 becomes −1."""
        for bits, signed in each_case(self._widths()):
            low, high = int(_all_codes(bits, signed)[0]), int(_all_codes(bits, signed)[-1])
            for code in _codes_outside(bits, signed):
                codes = self._filled(CodesCase(bits, _as_codes([0, code, 0], signed))).codes
                restored = packing.unpack(packing.pack(codes, bits), bits, len(codes), signed)
                assert torch.equal(restored, codes.clamp(low, high))

    def test_a_code_that_does_not_fit_spares_its_neighbours(self, packing: Packing) -> None:
        """It is refused, or becomes the nearest that fits: one of the two, for all codes.

        Else its upper bits end up in a neighbour, or it wraps around silently. Usual causes: or-ing
        shifted codes together without a mask or a check, a check of the largest code alone.
        """
        ends = set()
        for bits, signed in each_case(() if "unchecked" in self.capabilities else self._widths()):
            low, high = int(_all_codes(bits, signed)[0]), int(_all_codes(bits, signed)[-1])
            for code in _codes_outside(bits, signed):
                codes = self._filled(CodesCase(bits, _as_codes([0, code, 0], signed))).codes
                try:
                    restored = packing.unpack(packing.pack(codes, bits), bits, len(codes), signed)
                except ValueError:
                    ends.add("refused")
                    continue
                ends.add("saturated")
                assert torch.equal(restored, codes.clamp(low, high)), (
                    f"{bits} bits: {codes.tolist()} came back as {restored.tolist()}"
                )
        assert len(ends) <= 1, "some codes that do not fit are refused, others saturated"

    def _stream(self, codes: Tensor, bits: int) -> bytes:
        """All codes as one number: the first in the lowest bits, or in the highest."""
        fields = [code & 2**bits - 1 for code in codes.tolist()]
        size = math.ceil(len(fields) * bits / 8)
        if not self.straddles and self.unit_bits % bits:
            return self._words(fields, bits)
        if self.bit_order == "low-first":
            total: int = sum(field << place * bits for place, field in enumerate(fields))
            return total.to_bytes(size, "little")
        total = sum(field << 8 * size - (place + 1) * bits for place, field in enumerate(fields))
        return total.to_bytes(size, "big")

    def _words(self, fields: Sequence[int], bits: int) -> bytes:
        """Whole codes in each unit, the first in its lowest bits, or in its highest."""
        held, found = self.unit_bits // bits, b""
        for start in range(0, len(fields), held):
            part = list(fields[start : start + held])
            if self.bit_order == "high-first":
                part = [*part, *[0] * (held - len(part))][::-1]
            word = sum(field << place * bits for place, field in enumerate(part))
            found += word.to_bytes(self.unit_bits // 8, "little")
        return found

    def _widths(self) -> list[tuple[int, bool]]:
        return list(itertools.product(self.bits, self.signs))

    def _filled(self, case: CodesCase) -> CodesCase:
        missing = -len(case.codes) % self.count_multiple
        return CodesCase(case.bits, torch.cat([case.codes, case.codes.new_zeros(missing)]))

    def _hold(self, packing: Packing, holds: Callable[[Packing, CodesCase], None]) -> None:
        __tracebackhide__ = True

        @st.composite
        def draw_case(draw: st.DrawFn) -> CodesCase:
            bits, signed = draw(st.sampled_from(self._widths()))
            codes = _all_codes(bits, signed)
            numbers = draw(
                st.lists(st.integers(int(codes[0]), int(codes[-1])), min_size=1, max_size=70)
            )
            return self._filled(CodesCase(bits, _as_codes(numbers, signed)))

        traps = [
            (
                f"{count} codes of {bits} bits",
                self._filled(CodesCase(bits, _all_codes(bits, signed).flip(0).repeat(40)[:count])),
            )
            for bits, signed in self._widths()
            for count in (1, 7, 8, 9, 10, 31, 32, 33, 63, 64, 65, 100)
        ]
        for_all(partial(holds, packing), draw_case(), traps=traps, examples=self.examples)


def _all_codes(bits: int, signed: bool) -> Tensor:
    """Every code of a width, ascending."""
    low = -(2 ** (bits - 1)) if signed else 0
    return _as_codes(range(low, low + 2**bits), signed)


def _codes_outside(bits: int, signed: bool) -> list[int]:
    """Codes that a byte holds and the width does not."""
    held = range(-128, 128) if signed else range(256)
    low, high = int(_all_codes(bits, signed)[0]), int(_all_codes(bits, signed)[-1])
    tried = (high + 1, 2**bits, low - 1, held[0], held[-1])
    return [code for code in tried if code in held and not low <= code <= high]


def _as_codes(numbers: Sequence[int], signed: bool) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int8 if signed else torch.uint8)
