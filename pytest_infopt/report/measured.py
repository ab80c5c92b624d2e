"""The tables that gates measured: what a number costs or saves, beside what was judged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..results.gate_result import GateResult
from .text import visible
from .wording import ABSENT

_DIGITS = 4


def tables_of(gate: GateResult) -> list[dict[str, Any]]:
    """The gate's tables: ``title``, ``columns``, ``rows``, ``notes`` each."""
    found = gate.details.get("tables", [])
    return list(found) if isinstance(found, list) else []


def notes_of(gate: GateResult) -> list[str]:
    """What follows from the gate's tables, a sentence each."""
    return [str(note) for table in tables_of(gate) for note in table.get("notes", ())]


def cell_rows(table: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The header and the rows as text."""
    yield tuple(visible(str(column)) for column in table["columns"])
    for row in table["rows"]:
        yield tuple(map(cell_text, row))


def cell_text(value: object) -> str:
    """Words as they are, whole numbers in full, others with four significant digits."""
    if value is None:
        return ABSENT
    if isinstance(value, bool | str):
        return visible(str(value))
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and math.isfinite(value):
        # Not 1.234e+04, which :.4g makes of what has more digits than that.
        return f"{value:,.0f}" if abs(value) >= 10**_DIGITS else f"{value:.{_DIGITS}g}"
    return visible(str(value))
