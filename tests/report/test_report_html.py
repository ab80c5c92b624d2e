"""The HTML page: what models say stays text, and the numbers of a plot stand beside it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from page_parts import ATTRIBUTES, ELEMENTS, PageParts
from report_strategies import RELAXED, gates, runs, text

from pytest_infopt import MeasuredTable, Plot
from pytest_infopt.console import main
from pytest_infopt.gates.registry import metrics
from pytest_infopt.report.comparison import compared
from pytest_infopt.report.document import result_document
from pytest_infopt.report.html import figures as figures_module
from pytest_infopt.report.html.candidates import comparison_figure
from pytest_infopt.report.html.figures import MISSING, can_draw, figure, standalone
from pytest_infopt.report.html.gauge import gauge
from pytest_infopt.report.html.page import html_page
from pytest_infopt.report.measured import cell_rows
from pytest_infopt.report.text import visible
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Judgement, Verdict
from pytest_infopt.strict_json import dumps

drawing = pytest.mark.skipif(not can_draw(), reason="needs vl-convert-python: the extra html")

columns = st.lists(text, min_size=2, max_size=4, unique_by=str)
numbers = st.floats() | st.integers(-(10**6), 10**6) | st.none()


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """A table of hostile words and any numbers, with a plot of some of its columns."""
    names = tuple(draw(columns))
    row = st.tuples(text | numbers, *(numbers for _ in names[1:]))
    plot = Plot(
        x=names[0],
        y=tuple(draw(st.lists(st.sampled_from(names[1:]), min_size=1, max_size=2, unique=True))),
        title=draw(text),
        mark=draw(st.sampled_from(["line", "bar", "point"])),
        ordered=draw(st.booleans()),
        log_x=draw(st.booleans()),
        log_y=draw(st.booleans()),
        group=draw(st.sampled_from(["", names[0]])),
        limit=draw(st.none() | st.floats(0.1, 10)),
    )
    rows = tuple(draw(st.lists(row, max_size=5)))
    return MeasuredTable(draw(text), names, rows, plot=plot).to_json()


with_tables = st.builds(
    lambda run, gate, table: replace(
        run, gates=[*run.gates, replace(gate, details={"tables": [table]})]
    ),
    runs,
    gates,
    tables(),
)


@RELAXED
@given(run=with_tables)
def test_no_text_becomes_markup(run: RunResult) -> None:
    parts = PageParts(html_page(run))
    assert set(parts.elements) <= ELEMENTS
    assert {name for name, _ in parts.attributes} <= ATTRIBUTES
    assert parts.others == []
    links = [value for name, value in parts.attributes if name == "href"]
    assert all(str(link).startswith("#") for link in links)
    for gate in run.gates:
        assert visible(gate.candidate) in parts.text
        assert all(visible(note) in parts.text for note in gate.notes)
    assert all(visible(str(model["name"])) in parts.text for model in run.candidates)


@drawing
@RELAXED
@given(table=tables())
def test_a_plot_is_one_sound_svg_with_a_label(table: dict[str, Any]) -> None:
    plot, svg = table["plot"], figure(table)
    if svg is None:
        places = [table["columns"].index(name) for name in plot["y"]]
        values = [row[place] for row in table["rows"] for place in places]
        on_any_axis = [v for v in values if v is not None and math.isfinite(v) and v > 0]
        assert not on_any_axis or not plot["ordered"]
        return
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label", "").startswith(visible(table["title"]))
    assert not {"script", "foreignObject", "image", "a", "style"} & {
        element.tag.rpartition("}")[2] for element in root.iter()
    }


@drawing
def test_every_number_of_a_plot_stands_in_its_table() -> None:
    table = MeasuredTable(
        "growth",
        ("tokens", "held, MiB", "formula, MiB"),
        ((16, 1.5, 1.25), (64, 6.125, math.inf), (128, None, 9.75)),
        plot=Plot("tokens", ("held, MiB", "formula, MiB"), "KV cache, MiB"),
    ).to_json()
    gate = GateResult("kv-cache", "int8", 1.0, details={"tables": [table]})
    run = RunResult("1", "", "id", {}, {"name": "r"}, [{"name": "int8"}], [gate], 1.0)
    parts = PageParts(html_page(run))
    assert parts.elements.count("svg") == 1
    assert all(cell in parts.text for row in cell_rows(table) for cell in row)


def unimportable() -> None:
    raise ImportError("once per process")


@pytest.mark.parametrize(
    ("name", "found", "said"),
    [("find_spec", lambda _: None, MISSING), ("_converter", unimportable, "once per process")],
)
def test_without_the_plotting_library_the_page_has_tables_and_says_so(
    monkeypatch: pytest.MonkeyPatch, name: str, found: Callable[..., None], said: str
) -> None:
    monkeypatch.setattr(figures_module, "find_spec", lambda _: "a spec")
    monkeypatch.setattr(figures_module, name, found)
    plot = Plot("a", ("b",), "b")
    table = MeasuredTable("t", ("a", "b"), ((1, 2.5),), plot=plot).to_json()
    run = RunResult("1", "", "id", {}, {"name": "r"}, [],
                    [GateResult("g", "c", 1.0, details={"tables": [table]})], 1.0)  # fmt: skip
    parts = PageParts(html_page(run))
    assert said in parts.text
    assert "2.5" in parts.text
    assert "svg" not in parts.elements


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The folder of a run that a version before tables had plots has left."""
    table = {"title": "old", "columns": ["a", "b"], "rows": [["x", 2.5]], "notes": []}
    gate = GateResult("quality", "int8", 1.0, details={"tables": [table]})
    run = RunResult("0", "", "id", {}, {"name": "r"}, [{"name": "int8"}], [gate], 1.0)
    document = result_document(run)
    for key in ("left_out", "failed_tests", "faults"):
        del document[key]
    for item in document["items"]:
        del item["not_run"]
    (tmp_path / "result.json").write_text(dumps(document))
    return tmp_path


def test_an_earlier_run_gets_its_page(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(earlier), "--into", str(earlier / "page")]) == 0
    assert "report.html" in capsys.readouterr().out
    parts = PageParts((earlier / "page" / "report.html").read_text(encoding="utf-8"))
    assert "infopt: INCONCLUSIVE" in parts.text
    assert "2.5" in parts.text


def test_a_report_that_nobody_has_is_named(
    earlier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(earlier), "--name", "htm"]) == 2
    assert "did you mean html?" in capsys.readouterr().err


@given(
    name=st.sampled_from(sorted(metrics())),
    value=st.floats(-2, 3),
    limit=st.floats(0.5, 2),
    widths=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_the_gauge_has_the_value_on_the_side_of_the_limit_where_it_is(
    name: str, value: float, limit: float, widths: tuple[float, float]
) -> None:
    interval = (value - widths[0], value + widths[1])
    found = gauge(Judgement(name, value, 9, 9, Verdict.PASS, limit, interval))
    if found is None:
        return
    assert 0 <= found.low <= found.value <= found.high <= 100
    assert 0 < found.equal < found.limit < 100
    if metrics()[name].higher_is_better is (value < limit):
        assert found.value >= found.limit or math.isclose(value, limit)


def test_a_table_does_not_plot_columns_that_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"its plot names \['seconds'\]"):
        MeasuredTable("t", ("a",), (), plot=Plot("a", ("seconds",), "s"))


def measured(name: str, weights: float, time: float, loss: float) -> list[GateResult]:
    values = {"weight_bytes": weights, "tpot_ratio": time, "kl_mean": loss}
    return [
        GateResult(metric, name, 1.0, [Judgement(metric, value, 9, 9, interval=(value, value))])
        for metric, value in values.items()
    ]


amounts = st.floats(0.1, 100)


@given(places=st.lists(st.tuples(amounts, amounts, amounts), min_size=2, max_size=6))
def test_the_front_has_who_is_beaten_by_nobody(places: list[tuple[float, float, float]]) -> None:
    gates_of = [gate for n, place in enumerate(places) for gate in measured(f"c{n}", *place)]
    run = RunResult("1", "", "id", {}, {"name": "r"}, [], gates_of, 1.0)
    found = compared(run)
    assert [candidate.place for candidate in found] == places
    assert any(candidate.is_on_front for candidate in found)
    for candidate, place in zip(found, places, strict=True):
        beaten = [
            other
            for other in places
            if all(a <= b for a, b in zip(other, place, strict=True)) and other != place
        ]
        assert candidate.is_on_front is not bool(beaten)


@drawing
@given(name=text, ends=st.tuples(numbers, numbers))
@RELAXED
def test_candidates_are_drawn_whatever_they_are_called(
    name: str, ends: tuple[float | None, float | None]
) -> None:
    gates_of = [*measured(name, 2.0, 3.0, 0.0), *measured(f"{name}2", 4.0, 1.0, 1e9)]
    low, high = (1.0 if end is None else float(end) for end in ends)
    gates_of[1] = replace(gates_of[1], judgements=[Judgement("tpot_ratio", 3.0, 9, 9, None, None,
                                                             (low, high))])  # fmt: skip
    run = RunResult("1", "", "id", {}, {"name": "r"}, [], gates_of, 1.0)
    svg = comparison_figure(compared(run))
    assert svg is not None
    ElementTree.fromstring(svg)


def test_one_candidate_is_compared_with_nobody() -> None:
    run = RunResult("1", "", "id", {}, {"name": "r"}, [], measured("a", 1, 1, 1), 1.0)
    assert compared(run) == []
    assert comparison_figure([]) is None


ratios = st.floats(0.25, 4)


@pytest.mark.parametrize(
    ("metric", "serving", "power"),
    [
        ("tpot_ratio", "", 1),
        ("speculative_speed_up", "with its draft", -1),
        ("batching_throughput_ratio", "in batches", -1),
        ("kv_step_speed_up", "without a KV cache", 1),
    ],
)
@given(ends=st.tuples(ratios, ratios, ratios).map(sorted))
@example(ends=[0.0, 2.0, math.inf])
def test_each_way_of_serving_is_a_time_over_plain_decoding(
    metric: str, serving: str, power: int, ends: list[float]
) -> None:
    low, value, high = ends
    other = measured("a", 2.0, 1.0, 0.1)
    served = [*measured("b", 2.0, 1.0, 0.1)[::2], GateResult("g", "b", 1.0, [
        Judgement(metric, value, 9, 9, Verdict.PASS, 0.01, (low, high))])]  # fmt: skip
    run = RunResult("1", "", "id", {}, {"name": "r"}, [], [*other, *served], 1.0)
    _, candidate = compared(run)
    time = candidate.found["tpot_ratio"]
    assert candidate.serving == serving
    assert time.value == pytest.approx(value**power)
    assert time.interval is not None
    inverse = [1 / high, 1 / low if low else math.inf]
    assert time.interval == pytest.approx((low, high) if power > 0 else inverse)


def test_a_drafts_bytes_count_among_the_weights() -> None:
    drafted = GateResult("s", "a", 1.0, [Judgement("draft_bytes", 5.0, 1, 1)])
    gates_of = [*measured("a", 2.0, 1.0, 0.1), drafted, *measured("b", 2.0, 1.0, 0.1)]
    run = RunResult("1", "", "id", {}, {"name": "r"}, [], gates_of, 1.0)
    assert [candidate.weight_bytes for candidate in compared(run)] == [7.0, 2.0]


@drawing
def test_a_plot_that_stands_alone_has_its_colours_in_light_and_dark() -> None:
    gates_of = [*measured("a", 2.0, 3.0, 0.1), *measured("b", 4.0, 1.0, 0.2)]
    run = RunResult("1", "", "id", {}, {"name": "r"}, [], gates_of, 1.0)
    svg = comparison_figure(compared(run))
    assert svg is not None
    root = ElementTree.fromstring(standalone(svg))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    (style,) = root.findall("{http://www.w3.org/2000/svg}style")
    assert style.text is not None
    light, dark = style.text.split("prefers-color-scheme: dark")
    used = set(re.findall(r"var\((--[\w-]+)\)", svg))
    assert used
    assert all(f"{name}:" in light and f"{name}:" in dark for name in used)


@drawing
def test_labels_of_numbers_keep_their_zeros() -> None:
    rows = (("0.001", 0.25), ("0.003", 0.75))
    plot = Plot("KL from", ("share",), "share of tokens", "bar", ordered=True)
    svg = figure(MeasuredTable("d", ("KL from", "share"), rows, plot=plot).to_json())
    assert svg is not None
    assert {"0.001", "0.003"} <= set(re.findall(r">([\d.]+)<", svg))


@drawing
def test_nothing_but_zeros_is_a_table_and_no_empty_plot() -> None:
    plot = Plot("document", ("nats",), "KL, nats", "bar", ordered=True)
    table = MeasuredTable("kl", ("document", "nats"), (("a", 0.0), ("b", 0.0)), plot=plot)
    assert figure(table.to_json()) is None


def test_a_column_is_set_to_the_right_where_all_of_it_are_numbers() -> None:
    rows = (("a", 1.5, "few"), ("b", 2, 3))
    gate = GateResult("g", "c", 1.0, details={"tables": [
        MeasuredTable("t", ("what", "number", "word"), rows).to_json()]})  # fmt: skip
    page = html_page(RunResult("1", "", "id", {}, {"name": "r"}, [], [gate], 1.0))
    assert re.findall(r'class="number">([^<]*)<', page) == ["number", "1.5", "2"]
