"""CodebookSuite: is every code's level right, and every number's code the nearest?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ..base import Suite, requires
from ..tally import leave_out
from .protocol import Codebook

GRID = 4001  # evenly spaced numbers between the ends, beside all that are near a midpoint


class CodebookSuite(Suite):
    """Properties of small number formats, tried on all of their 4 to 256 codes.

    Give a fixture ``codebook``: a `protocol.Codebook`. Class attributes say which format it is:

    | attribute | default | meaning |
    |---|---|---|
    | ``levels`` | to be given | the published table in code order, NaN and infinities included |
    | ``ties`` | "either" | where the middle of two levels goes: even, down, up, away, either |

    "even" is the code with a last bit of 0, as IEEE 754 has it; "either" leaves it open.
    """

    topic = "codebook"
    fixture = "codebook"
    fixture_returns = "an object with encode and decode"
    offers = {  # noqa: RUF012  # read only
        "saturates": "numbers beyond the largest level, infinity too, get the largest level",
        "keeps-nan": "NaN gets a code that decodes to NaN",
        "refuses-nan": "NaN raises ValueError",
    }
    levels: ClassVar[Sequence[float]] = ()
    ties: ClassVar[str] = "either"
    methods = {"": ("encode", "decode")}  # noqa: RUF012  # read only

    @classmethod
    def check_declaration(cls) -> None:
        super().check_declaration()
        if not cls.levels:
            raise TypeError("levels is empty; give the published table, in the order of its codes")

    def test_every_code_decodes_to_its_level(self, codebook: Codebook) -> None:
        """The whole table, to the last bit of float32.

        Usual causes: another table for one format, an exponent's bias, a top binade that is taken
        for infinity and NaN as IEEE formats have it, subnormals read as normal.
        """
        decoded = codebook.decode(self._codes())
        published = self._table().float()
        wrong = ~((decoded == published) | (decoded.isnan() & published.isnan()))
        code = int(wrong.int().argmax())
        assert not bool(wrong.any()), (
            f"code {code:#04x} decodes to {decoded[code].item()}, "
            f"published is {published[code].item()}"
        )

    def test_levels_are_distinct_and_hold_zero_and_both_ends(self, codebook: Codebook) -> None:
        """0, where it is published, keeps pruned weights at 0, the ends keep the largest weights.

        Usual causes: a symmetric table of 15 levels with one of them twice.
        """
        decoded = codebook.decode(self._codes())
        finite = torch.unique(decoded[torch.isfinite(decoded)].double())
        published = self._finite()
        assert len(finite) == len(published)
        assert bool((finite == 0).any()) == bool((published == 0).any())
        assert (finite[0], finite[-1]) == (published[0], published[-1])

    def test_levels_encode_to_their_own_codes(self, codebook: Codebook) -> None:
        """Two codes of one level (0 and −0) may be exchanged, no others.

        Usual causes: boundaries that are not midpoints, codes sorted and not sorted back.
        """
        codes = self._codes()[torch.isfinite(self._table())]
        levels = codebook.decode(codes)
        again = codebook.decode(codebook.encode(levels))
        wrong = again != levels
        assert not bool(wrong.any()), (
            f"level {levels[wrong][0].item()} is encoded as that of {again[wrong][0].item()}"
        )

    def test_each_number_gets_the_nearest_level(self, codebook: Codebook) -> None:
        """On a fine grid, on every midpoint's neighbours in float32, and next to every level.

        A boundary that was rounded to float32 is off by eps/2, the two distances by twice as much.

        Usual causes: search by floor, truncation of the mantissa, the top binade saturated, one
        boundary off, subnormals flushed to 0.
        """
        numbers = self._numbers()
        decoded = codebook.decode(codebook.encode(numbers)).double()
        levels = self._finite()
        exact = numbers.double()
        nearest = (exact[:, None] - levels).abs().amin(1)
        rounding = torch.finfo(torch.float32).eps * exact.abs()
        farther = (exact - decoded).abs() > nearest + rounding
        first = int(farther.int().argmax())
        assert not bool(farther.any()), (
            f"{numbers[first].item():.9g} is encoded as {decoded[first].item():.9g}, which is "
            f"{abs(exact[first] - decoded[first]).item():.3g} away; the nearest level is "
            f"{nearest[first].item():.3g} away ({int(farther.sum())} of {len(numbers)} numbers)"
        )

    def test_midpoints_go_where_the_format_sends_them(self, codebook: Codebook) -> None:
        """Usual causes: rounding half up or half away where half to even is meant, which shifts
        the mean of whatever has few bits already."""
        levels = self._finite()
        middles = (levels[1:] + levels[:-1]) / 2
        exact = middles.float().double() == middles
        below, above, middles = levels[:-1][exact], levels[1:][exact], middles[exact]
        decoded = codebook.decode(codebook.encode(middles.float())).double()
        expected = {
            "down": below,
            "up": above,
            "away": torch.where(middles < 0, below, above),
            "even": torch.where(self._is_even(below), below, above),
        }.get(self.ties)
        allowed = (decoded == below) | (decoded == above)
        if expected is not None:
            allowed = decoded == expected
        first = int((~allowed).int().argmax())
        assert bool(allowed.all()), (
            f"{middles[first].item():.9g}, in the middle of {below[first].item():.9g} and "
            f"{above[first].item():.9g}, becomes {decoded[first].item():.9g} (ties: {self.ties})"
        )

    def test_encoding_is_monotone_and_keeps_signs(self, codebook: Codebook) -> None:
        """Usual causes: a sign bit lost at 0 or among subnormals, codes compared as integers."""
        numbers = self._numbers().unique()  # type: ignore[no-untyped-call]  # torch leaves it so
        decoded = codebook.decode(codebook.encode(numbers))
        assert bool((decoded.diff() >= 0).all())
        if bool((self._finite() == 0).any()):  # else a small number may be next to either sign
            assert bool((decoded * numbers >= 0).all())

    def test_zero_encodes_to_zero(self, codebook: Codebook) -> None:
        """0 and −0, where 0 is a level.

        Usual causes: a table whose level next to 0 is meant for it.
        """
        if not bool((self._table() == 0).any()):
            leave_out()
            return
        zeros = torch.tensor([0.0, -0.0])
        assert bool((codebook.decode(codebook.encode(zeros)) == 0).all())

    @requires("saturates")
    def test_numbers_beyond_the_ends_get_the_ends(self, codebook: Codebook) -> None:
        """A value twice the calibrated range must not poison a tensor.

        Usual causes: a cast that overflows to infinity or NaN, a clamp that was left out.
        """
        levels = self._finite()
        top = float(levels.max())
        factors = torch.tensor([1.0, 1.01, 1.04, 1.08, 1.5, 2.0, 1e6, math.inf])
        ends = [(1.0, levels.max())]
        if levels.min() < 0:  # else what lies below the smallest level may be refused, or be NaN
            ends.append((-1.0, levels.min()))
        for sign, end in ends:
            decoded = codebook.decode(codebook.encode(sign * factors * top))
            assert bool((decoded.double() == end).all()), decoded.tolist()

    @requires("keeps-nan")
    def test_nan_stays_nan(self, codebook: Codebook) -> None:
        """Usual causes: a clamp, which turns NaN into an end of the range."""
        assert bool(codebook.decode(codebook.encode(torch.tensor([math.nan]))).isnan().all())

    @requires("refuses-nan")
    def test_nan_is_refused(self, codebook: Codebook) -> None:
        """Usual causes: a search in the table, which puts NaN behind everything."""
        with pytest.raises(ValueError, match=r"(?i)nan|finite"):
            codebook.encode(torch.tensor([0.0, math.nan]))

    def _table(self) -> Tensor:
        """The published levels as float32 holds them, in float64."""
        if not self.levels:
            raise TypeError(f"{type(self).__name__} has no levels; give the published table")
        return torch.tensor(list(self.levels), dtype=torch.float32).double()

    def _codes(self) -> Tensor:
        return torch.arange(len(self._table()), dtype=torch.uint8)

    def _finite(self) -> Tensor:
        """The finite levels, float64, ascending."""
        table = self._table()
        found: Tensor = torch.unique(table[torch.isfinite(table)])
        return found

    def _is_even(self, levels: Tensor) -> Tensor:
        """Whether a level's code ends in 0; of 0 and −0 both do."""
        table = self._table()
        return torch.tensor([int((table == level).int().argmax()) % 2 == 0 for level in levels])

    def _numbers(self) -> Tensor:
        """Numbers, float32, between the ends: a grid, and what is next to levels and midpoints."""
        levels = self._finite()
        ends = float(levels.min()), float(levels.max())
        middles = ((levels[1:] + levels[:-1]) / 2).float()
        points = torch.cat([levels.float(), middles])
        far = torch.tensor(math.inf)
        near = torch.cat([points, torch.nextafter(points, far), torch.nextafter(points, -far)])
        # Evenly and, for floating-point formats, evenly in every binade.
        grid = torch.linspace(*ends, GRID)
        scaled = torch.cat([grid * 2.0**-exponent for exponent in range(0, 34, 3)])
        return torch.cat([near, scaled]).clamp(*ends)
