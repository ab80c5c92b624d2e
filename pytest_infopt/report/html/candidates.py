"""The candidates of a run in one plot: memory against time, colour is quality."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from ..comparison import TIME, ComparedCandidate
from .figures import HEIGHT, STYLE, WIDTH, can_draw, drawn

_LEAST_LOSS = 1e-5  # nats: a copy of the reference loses nothing, which no logarithm has


def comparison_figure(candidates: list[ComparedCandidate]) -> Markup | None:
    """Each candidate as a point with its interval; None where fewer than two have all three."""
    placed = [c for c in candidates if c.place is not None]
    points = [{**_point(c), "above": index % 2 == 0} for index, c in enumerate(placed)]
    if len(points) < 2 or not can_draw():
        return None
    try:
        return drawn(_specification(points), "memory against time of the candidates")
    except ValueError:  # of the library's: the table is there
        return None


def _point(candidate: ComparedCandidate) -> dict[str, Any]:
    weights, time, loss = candidate.place or (math.nan,) * 3
    ends = candidate.found[TIME].interval or (time, time)
    low, high = (end if math.isfinite(end) and end > 0 else time for end in ends)
    return {
        "name": candidate.name,
        "x": weights / 2**20,
        "y": time,
        "low": low,
        "high": high,
        "loss": max(loss, _LEAST_LOSS),
        "front": candidate.is_on_front,
    }


def _specification(points: list[dict[str, Any]]) -> dict[str, Any]:
    wide = {"zero": False, "padding": 20}
    x = {"field": "x", "type": "quantitative", "title": "weights, MiB", "scale": wide}
    y = {"field": "y", "type": "quantitative", "title": "time of a token, × the reference's"}
    log = {"type": "log", "nice": False, "padding": 26}
    low = {"field": "low", "type": "quantitative", "scale": log, "title": y["title"]}
    shades = {"type": "log", "range": ["#2da44e", "#d4a72c", "#cf222e"], "interpolate": "rgb"}
    colour = {
        "field": "loss",
        "type": "quantitative",
        "scale": shades,
        "legend": {
            "title": "KL, nats",
            "orient": "top",
            "gradientLength": 160,
            "tickCount": 3,
            "format": ".1g",
        },
    }
    outline = {"condition": {"test": "datum.front", "value": 2.5}, "value": 0.5}
    return {
        "width": 1.2 * WIDTH,
        "height": 1.4 * HEIGHT,
        "data": {"values": points},
        "encoding": {"x": x, "y": {**y, "scale": log}},
        "layer": [
            {
                "mark": {"type": "rule", "color": "var(--bar)"},
                "encoding": {"y": low, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 130, "opacity": 1,
                         "stroke": "currentColor"},
                "encoding": {"color": colour, "strokeWidth": outline},
            },
            _names(-7, [point for point in points if point["above"]]),
            _names(15, [point for point in points if not point["above"]]),
        ],
        "config": STYLE,
    }  # fmt: skip


def _names(below: int, points: list[dict[str, Any]]) -> dict[str, Any]:
    """Names beside their points, so many px below: neighbours of equal place take turns."""
    mark = {"type": "text", "align": "left", "dx": 9, "dy": below, "fontSize": 11}
    return {
        "data": {"values": points},
        "mark": {**mark, "color": "currentColor"},
        "encoding": {"text": {"field": "name"}},
    }
