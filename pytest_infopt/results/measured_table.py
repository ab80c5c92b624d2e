"""A table that a gate measured, for the reports: data, with no number formatted yet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Cell", "MeasuredTable", "Plot"]

Cell = str | float | int | None


@dataclass(frozen=True)
class Plot:
    """How reports draw a table: the column ``x`` against each of the columns ``y``.

    ``title`` names the axis of ``y``, with its unit. ``ordered`` says that x are words, or numbers
    in an order of their own, one place each. Rows of equal ``group``, a column too, belong
    together. ``limit`` is where a line is drawn across, such as the 1 of ratios.
    """

    x: str
    y: tuple[str, ...]
    title: str
    mark: Literal["line", "bar", "point"] = "line"
    ordered: bool = False
    log_x: bool = False
    log_y: bool = False
    group: str = ""
    limit: float | None = None


@dataclass(frozen=True)
class MeasuredTable:
    """``columns`` carry their units; ``notes`` say what follows from the rows, in sentences.

    Raises ValueError for a plot of columns that the table does not have.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    plot: Plot | None = None

    def __post_init__(self) -> None:
        plot = self.plot
        drawn = () if plot is None else (plot.x, *plot.y, *filter(None, [plot.group]))
        if missing := [name for name in drawn if name not in self.columns]:
            raise ValueError(
                f"table {self.title!r} has columns {list(self.columns)}; its plot names {missing}"
            )

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}
