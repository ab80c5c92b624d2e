"""A table that a gate measured, for the reports: data, with no number formatted yet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Cell", "MeasuredTable"]

Cell = str | float | int | None


@dataclass(frozen=True)
class MeasuredTable:
    """``columns`` carry their units; ``notes`` say what follows from the rows, in sentences."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
