"""Plots of measured tables as inline SVG, drawn by Vega-Lite (package ``vl-convert-python``).

Colours are CSS variables and ``currentColor``, so that a plot follows the page into dark mode.
Words of the table are data of the plot, never part of its specification.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

from markupsafe import Markup

from ..measured import cell_text
from ..text import visible

MISSING = "Plots are left out: they take pip install 'pytest-infopt[html]'."
WIDTH, HEIGHT = 290, 190  # of the plot inside its axes, px: with them, as wide as a phone
SERIES = 6  # colours that the page has
_SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
_LONG = 6  # characters of a label that do not fit below a bar
_LETTER = 6  # px
_MOST_LABELS = 24
_LONGEST_LABEL = 38
# Of single marks: the figure has a role and a label of its own.
_ROLES = re.compile(r' (?:role="graphics-\w+"|aria-roledescription="[^"]*")')
_OPENING = re.compile(r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>")


def why_no_plots() -> str:
    """Why nothing can be drawn, as a sentence; "" where it can."""
    if find_spec("vl_convert") is None:
        return MISSING
    try:
        _converter()
    except ImportError as error:  # a process that forgot its modules cannot take it in once more
        return f"Plots are left out: vl_convert cannot be imported: {error}."
    return ""


def can_draw() -> bool:
    """Whether the plotting library can be used."""
    return not why_no_plots()


def figure(table: Mapping[str, Any]) -> Markup | None:
    """The table's plot; None where it has none, no number that its axes hold, or only zeros."""
    plot = table.get("plot")
    if not plot or not can_draw():
        return None
    points = list(_points(table, plot))
    if not any(point["y"] for point in points):
        return None
    label = f"{visible(str(table['title']))}: {visible(plot['title'])} against {_x_title(plot)}"
    try:
        return drawn(specification(plot, points, _labels(table, plot)), label)
    except ValueError:  # of the library's: the table is there, and no report fails for a plot
        return None


def specification(
    plot: Mapping[str, Any], points: list[dict[str, Any]], labels: list[str]
) -> dict[str, Any]:
    """The plot as Vega-Lite; ``points`` hold x, y and the name of their series."""
    names = list(dict.fromkeys(point["series"] for point in points))
    is_bar = plot["mark"] == "bar"
    longest = max(map(len, labels), default=0)
    flat = is_bar and len(labels) <= _MOST_LABELS and longest > _LONG
    x, y = _x_axis(plot, labels, flat), _y_axis(plot)
    encoding: dict[str, Any] = {"y": x, "x": y} if flat else {"x": x, "y": y}
    if len(names) > 1:
        encoding |= _series(names, plot["mark"])
        if is_bar:
            encoding["yOffset" if flat else "xOffset"] = {"field": "series", "sort": names}
    layers: list[dict[str, Any]] = [{"mark": _mark(plot["mark"]), "encoding": encoding}]
    if plot.get("limit") is not None:
        rule = {"type": "rule", "color": "currentColor", "strokeDash": [4, 3]}
        layers.append({"mark": rule, "encoding": {"y": {"datum": plot["limit"]}}})
    return {
        "width": WIDTH + 50 - _LETTER * longest if flat else WIDTH,
        "height": len(labels) * max(22, 14 * len(names)) if flat else HEIGHT,
        "params": [{"name": "labels", "value": labels}],
        "data": {"values": points},
        "layer": layers,
        "config": STYLE,
    }


def _points(table: Mapping[str, Any], plot: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    columns = list(table["columns"])
    x, group = columns.index(plot["x"]), plot.get("group")
    places = _places(table, plot)
    unit = plot["title"].rpartition(", ")[2]  # the axis has it: the legend need not
    for row in table["rows"]:
        if not plot["ordered"] and not _is_drawable(row[x], plot["log_x"]):
            continue
        for name in plot["y"]:
            value = row[columns.index(name)]
            if _is_drawable(value, plot["log_y"]):
                named = len(plot["y"]) > 1 or not group
                words = [name.removesuffix(f", {unit}")] if named else []
                words += [f"{group} {cell_text(row[columns.index(group)])}"] if group else []
                at = places[cell_text(row[x])] if plot["ordered"] else row[x]
                yield {"x": at, "y": value, "series": _drawable_word(visible(", ".join(words)))}


def _is_drawable(value: object, on_log_axis: bool) -> bool:
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return is_number and (not on_log_axis or value > 0)  # type: ignore[operator]


def _places(table: Mapping[str, Any], plot: Mapping[str, Any]) -> dict[str, int]:
    """Words of x with their places on its axis, in the order of the rows."""
    x = list(table["columns"]).index(plot["x"])
    words = dict.fromkeys(cell_text(row[x]) for row in table["rows"])
    return {word: place for place, word in enumerate(words)}


def _labels(table: Mapping[str, Any], plot: Mapping[str, Any]) -> list[str]:
    if not plot["ordered"]:
        return []
    words = _places(table, plot)
    shared = _shared_start(list(words))
    return [_short(word[len(shared) :]) for word in words]


def _shared_start(words: list[str]) -> str:
    """What all words begin with, up to a full stop: "model.layers." of a model's layers, and not
    the "0." of numbers."""
    first, last = min(words, default=""), max(words, default="")
    common = next((n for n, pair in enumerate(zip(first, last)) if pair[0] != pair[1]), 0)  # noqa: B905
    shared = first[: first.rfind(".", 0, common) + 1]
    return shared if any(map(str.isalpha, shared)) else ""


def _drawable_word(word: str) -> str:
    """The library cuts long words between the halves of a surrogate pair, and then draws nothing:
    what takes such a pair is a box."""
    return "".join(letter if ord(letter) < 0x10000 else "□" for letter in word)


def _short(word: str) -> str:
    word = _drawable_word(word)
    return word if len(word) <= _LONGEST_LABEL else word[: _LONGEST_LABEL - 1] + "…"


def _x_title(plot: Mapping[str, Any]) -> str:
    return visible(str(plot["x"]))


def _x_axis(plot: Mapping[str, Any], labels: list[str], flat: bool) -> dict[str, Any]:
    if not plot["ordered"]:
        scale = {"type": "log"} if plot["log_x"] else {"zero": False, "nice": True}
        return {"field": "x", "type": "quantitative", "title": _x_title(plot), "scale": scale}
    axis: dict[str, Any] = {"labelExpr": "labels[datum.value]", "labelOverlap": True}
    if plot["mark"] == "bar" and len(labels) > _MOST_LABELS:
        axis = {"labels": False, "ticks": False}
    elif not flat:
        axis["labelAngle"] = -40 if max(map(len, labels), default=0) > 3 else 0
    title = None if flat else _x_title(plot)  # beside its words it would lie on them
    return {"field": "x", "type": "ordinal", "sort": None, "title": title, "axis": axis}


def _y_axis(plot: Mapping[str, Any]) -> dict[str, Any]:
    scale: dict[str, Any] = {"type": "log"} if plot["log_y"] else {"zero": plot["mark"] != "point"}
    title = visible(plot["title"])
    return {"field": "y", "type": "quantitative", "title": title, "scale": scale, "stack": None}


def _series(names: list[str], mark: str) -> dict[str, Any]:
    """Series differ by colour, and by something beside it."""
    colours = [f"var(--series-{1 + index % SERIES})" for index in range(len(names))]
    legend = {"title": None, "orient": "top", "direction": "horizontal", "columns": 2}
    scale = {"domain": names, "range": colours}
    found = {"color": {"field": "series", "scale": scale, "legend": legend}}
    if mark == "line":
        dashes = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]
        strokes = {"domain": names, "range": [dashes[i % len(dashes)] for i in range(len(names))]}
        found["strokeDash"] = {"field": "series", "scale": strokes, "legend": legend}
    if mark != "bar":
        found["shape"] = {
            "field": "series",
            "scale": {"domain": names, "range": [_SHAPES[i % SERIES] for i in range(len(names))]},
            "legend": legend,
        }
    return found


def _mark(mark: str) -> dict[str, Any]:
    colour = "var(--series-1)"
    if mark == "line":
        return {"type": "line", "color": colour, "point": {"color": colour, "size": 28}}
    return {"type": mark, "color": colour, **({"filled": True} if mark == "point" else {})}


# What all plots look like.
STYLE = {
    "background": "transparent",
    "aria": False,
    "font": "Arial, sans-serif",  # measured with Liberation Sans, which is as wide
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontWeight": "normal",
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "gridColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11,
        "labelLimit": _LETTER * _LONGEST_LABEL,
        "titlePadding": 10,
        "tickCount": 4,
        "labelOverlap": True,
    },
    "legend": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "labelLimit": 150,
        "columnPadding": 24,
    },
    "range": {"category": ["var(--series-1)"]},
}


@cache
def _converter() -> Any:
    import vl_convert

    return vl_convert


def drawn(spec: dict[str, Any], label: str) -> Markup:
    """A Vega-Lite specification as SVG; raises ValueError where it cannot be drawn."""
    svg = str(_converter().vegalite_to_svg(spec))
    opening = Markup('<svg role="img" aria-label="{}" viewBox="{}">')
    begun = _OPENING.search(svg)
    if begun is None:
        raise ValueError(f"vl-convert-python drew no SVG: {svg[:60]!r}")
    return opening.format(label, begun[1]) + Markup(_ROLES.sub("", svg[begun.end() :]))


def page_style() -> str:
    """The page's style sheet, whose variables are the colours of plots."""
    return files(__package__).joinpath("page.css").read_text(encoding="utf-8")


def standalone(svg: Markup) -> str:
    """A drawn plot as a file of its own, in the page's colours, light and dark."""
    colours = page_style().partition("* {")[0]
    style = f"<style>{colours}svg {{ background: var(--page); color: var(--text); }}</style>"
    opening, rest = str(svg).split(">", 1)
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{style}{rest}\n'
