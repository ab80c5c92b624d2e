"""A table in lines of text that never exceed a width: columns narrow by wrapping at words."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from .text import cells, defused, wrapped

GAPS = (2, 1)  # cells between columns: the first where there is room
NARROWEST = 2  # cells: a wide character must fit


@dataclass(frozen=True)
class Row:
    """One row: its cells, or, with a single cell, a line across all columns.

    Every line of the row is indented by ``indent`` cells, which the first column gives up.
    """

    cells: tuple[str, ...]
    indent: int = 0


def table_lines(rows: list[Row], width: int) -> list[str]:
    """The rows as lines of at most ``width`` cells; rows of several cells share their columns.

    Where the longest words of the columns do not fit beside each other, no row has columns.
    """
    wide = [row for row in rows if len(row.cells) > 1]
    widths, gap = list[int](), GAPS[0]
    for gap in GAPS:
        if widths := _column_widths(wide, width, gap):
            break
    lines: list[str] = []
    for row in rows:
        if len(row.cells) == 1 or not widths:
            lines += wrapped(" ".join(row.cells), width, " " * row.indent)
        else:
            lines += _row_lines(row, widths, gap)
    return lines


def _row_lines(row: Row, widths: list[int], gap: int) -> list[str]:
    first = widths[0] - row.indent
    columns = [
        wrapped(cell, room) for cell, room in zip(row.cells, [first, *widths[1:]], strict=True)
    ]
    return [
        defused(_line(row.indent, parts, [first, *widths[1:]], gap))
        for parts in zip_longest(*columns, fillvalue="")
    ]


def _line(indent: int, parts: tuple[str, ...], widths: list[int], gap: int) -> str:
    padded = (part + " " * (room - cells(part)) for part, room in zip(parts, widths, strict=True))
    return (" " * indent + (" " * gap).join(padded)).rstrip()


def _column_widths(rows: list[Row], width: int, gap: int) -> list[int]:
    """Natural widths; while too wide, the widest column above its longest word gives a cell. None
    at all where even the longest words do not fit."""
    if not rows:
        return []
    columns = range(len(rows[0].cells))
    widths = [max(_width(row, i, [row.cells[i]]) for row in rows) for i in columns]
    words = [max(_width(row, i, row.cells[i].split(" ")) for row in rows) for i in columns]
    room = width - gap * (len(widths) - 1)
    if sum(words) > room:
        return []
    while sum(widths) > room:
        slack = [i for i in columns if widths[i] > words[i]]
        widths[max(slack, key=lambda i: widths[i])] -= 1
    return widths


def _width(row: Row, column: int, parts: list[str]) -> int:
    """What a column takes so that the longest of a cell's parts fits, the row's indent included."""
    longest = max([NARROWEST, *map(cells, parts)])
    return longest + row.indent if column == 0 else longest
