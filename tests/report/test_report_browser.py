"""The HTML page in a real browser: two widths, light and dark, without network, accessible.

Needs the packages playwright and axe-playwright-python and a Chromium that is installed; what is
missing is said.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt import MeasuredTable, Plot
from pytest_infopt.report.html.figures import can_draw
from pytest_infopt.report.html.page import html_page
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Judgement, Verdict

_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, _NAMES)), None)
_NEEDED = {
    "playwright": find_spec("playwright"),
    "axe-playwright-python": find_spec("axe_playwright_python"),
    "vl-convert-python": can_draw(),
    f"a browser ({', '.join(_NAMES)})": BROWSER,
}
MISSING = [name for name, there in _NEEDED.items() if not there]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

PHONE, DESK = 390, 1280  # px
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
LONG = "a_very_long_name_of_a_module.layers.17.mlp.experts.down_proj" * 2


def _tables() -> list[dict[str, Any]]:
    numbers = tuple((2**n, 1.5 * 2**n, 3.0 / 2**n) for n in range(8))
    words = tuple((f"{LONG} {n}", 2.0**n, 3.0) for n in range(6))
    columns = ("place", "one, ms", "other, ms")
    both = columns[1:]
    plots = (
        (numbers, Plot("place", both, "time, ms", "line", log_x=True, log_y=True)),
        (numbers, Plot("place", both, "time, ms", "point", limit=1.0)),
        (words, Plot("place", both, "time, ms", "bar", ordered=True)),
        (words, Plot("place", both[:1], "time, ms", "line", ordered=True)),
    )
    return [
        MeasuredTable(f"{plot.mark} {n}", columns, rows, (LONG,), plot).to_json()
        for n, (rows, plot) in enumerate(plots)
    ] + [MeasuredTable("words", columns, words).to_json()]


def _run() -> RunResult:
    """Every verdict, every kind of plot, and words that are longer than a phone is wide."""
    top = [("tok\n", 0.6), (LONG, 0.2)]
    finding = {"document": LONG, "position": 3, "context": LONG, "true_token": "<b>", "kl": 2.5,
               "gap_ulps": 7.0, "reference_top": top, "candidate_top": top}  # fmt: skip
    gates = [
        GateResult(
            gate, "int8", 1.5,
            [Judgement("kl_mean", 0.02, 99, 9, verdict, 0.05, (0.01, float("inf")), LONG),
             Judgement("kl_p50", 0.02, 99, 9)],
            notes=[LONG], findings=[finding], reproduce=f"pytest {LONG}",
            error="broke" if verdict is Verdict.ERROR else None, details={"tables": _tables()},
        )
        for gate, verdict in zip("abcd", Verdict, strict=True)
    ]  # fmt: skip
    told = [LONG, "a sentence"]
    model = {"name": "int8", "model": LONG, "options": {"skip": [LONG]}, "trust": False}
    models = [model, {**model, "name": LONG}]
    return RunResult("1", "now", "id", {"torch": LONG}, {**model, "name": "ref"},
                     models, gates, 9.0, told, told, told, told)  # fmt: skip


@dataclass
class Shown:
    """A page as a browser shows it: what it asked for, and what it said."""

    page: Any
    requests: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html_page(_run()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(params=[(DESK, "light"), (PHONE, "dark")])
def shown(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Shown]:
    width, scheme = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
    )
    found = Shown(context.new_page())
    found.page.on("request", lambda made: found.requests.append(made.url))
    found.page.on("console", lambda message: found.messages.append(message.text))
    found.page.goto(address)
    yield found
    context.close()


def test_the_page_fits_and_asks_for_nothing(shown: Shown, address: str) -> None:
    page = shown.page
    assert shown.requests == [address]
    assert shown.messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    boxes = [svg.bounding_box() for svg in page.query_selector_all("figure svg")]
    assert len(boxes) == 4 * 4
    assert all(box["width"] > 200 and box["height"] > 40 for box in boxes)


def test_it_is_accessible_at_levels_a_and_aa(shown: Shown) -> None:
    axe = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    shown.page.evaluate(axe)
    found = shown.page.evaluate("tags => axe.run({runOnly: tags})", RULES)
    assert len(found["passes"]) > 10
    assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []


def test_text_stands_out_from_what_is_behind_it(shown: Shown) -> None:
    """axe does not decide it behind plots and in scrolled tables: no colour of the page is used for
    text below 4.5 : 1 on any of its grounds, nor for a line of a plot below 3 : 1 (WCAG 2.2)."""
    colours = shown.page.evaluate(_COLOURS)
    grounds = [colours["page"], colours["panel"]]
    for name in ("text", "muted", "link"):
        assert min(_contrast(colours[name], ground) for ground in grounds) >= 4.5, name
    for name in ("pass", "fail", "inconclusive", "error"):
        assert _contrast(colours[name], colours[f"{name}-back"]) >= 4.5, name
    for number in range(1, 7):
        assert min(_contrast(colours[f"series-{number}"], g) for g in grounds) >= 3, number


_COLOURS = """() => Object.fromEntries([...document.styleSheets[0].cssRules]
  .flatMap(rule => rule.style ? [...rule.style] : []).filter(name => name.startsWith("--"))
  .map(name => [name.slice(2), getComputedStyle(document.documentElement)
    .getPropertyValue(name).trim()]))"""


def _contrast(one: str, other: str) -> float:
    light, dark = sorted(map(_luminance, (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, WCAG 2.2."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * p for weight, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
