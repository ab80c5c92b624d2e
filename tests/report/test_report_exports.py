"""Markdown, annotations and JUnit properties: what a model says stays text in all of them."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_strategies import RELAXED, gates, runs, text

from pytest_infopt.report.annotations import workflow_commands
from pytest_infopt.report.junit import gate_from_properties, junit_properties
from pytest_infopt.report.markdown import escaped, fenced, markdown_summary
from pytest_infopt.report.measured import cell_text
from pytest_infopt.report.message import failure_message
from pytest_infopt.report.text import visible
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Judgement, Verdict

# The oracle: a CommonMark parser that lets raw HTML through, so that an injected tag is seen.
GITHUB = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
OWN_HTML = {"details", "/details"}
# What XML 1.0 cannot hold, section 2.2.
XML_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def inline_tokens(markdown: str) -> list[Any]:
    return [child for token in GITHUB.parse(markdown) for child in token.children or []]


def run_of(*results: GateResult) -> RunResult:
    return RunResult("0.1.0", "2026-11-22T10:00:00+00:00", "r1", {}, {"name": "ref"},
                     [], list(results), 1.0)  # fmt: skip


def gate_of(verdict: Verdict | None, **more: Any) -> GateResult:
    judgement = Judgement("kl_mean", 0.0623, 10, 2, verdict, 0.05, (0.01, 0.09))
    return GateResult("quality", "nf4", 1.0, [judgement], **more)


@given(text)
def test_escaped_text_renders_as_itself_and_as_nothing_else(raw: str) -> None:
    tokens = inline_tokens(f"before {escaped(raw)} after")
    assert {token.type for token in tokens} <= {"text", "text_special"}
    shown = "".join(token.content for token in tokens)
    assert shown.split() == f"before {visible(raw)} after".split()


@given(text)
def test_escaped_text_stays_in_its_table_cell(raw: str) -> None:
    table = f"| a | b |\n|---|---|\n| x {escaped(raw)} | y |\n"
    tokens = GITHUB.parse(table)
    assert sum(token.type == "tr_open" for token in tokens) == 2
    # Cells beyond the header's number are dropped, so that counting them would show nothing.
    cells = ["".join(c.content for c in t.children or []) for t in tokens if t.type == "inline"]
    assert [cell.split() for cell in cells] == [["a"], ["b"], f"x {visible(raw)}".split(), ["y"]]


@given(text)
def test_no_autolink_survives(raw: str) -> None:
    for start in ("www.", "http://", "https://", "mailto:a@b.example"):
        assert start not in escaped(raw + start).lower()


@given(text)
def test_fenced_text_is_one_code_block(raw: str) -> None:
    tokens = GITHUB.parse(f"before\n\n{fenced(raw)}\n\nafter")
    assert [t.type for t in tokens if t.nesting >= 0 and t.type != "inline"] == [
        "paragraph_open", "fence", "paragraph_open",
    ]  # fmt: skip
    shown = next(token.content for token in tokens if token.type == "fence")
    assert shown == "\n".join(visible(line) for line in raw.split("\n")) + "\n"


@RELAXED
@given(runs)
def test_a_summary_has_our_own_html_links_and_headings_only(run: RunResult) -> None:
    tokens = GITHUB.parse(markdown_summary(run))
    blocks = [token.content.strip() for token in tokens if token.type == "html_block"]
    assert {re.split(r"[\s>]", block[1:])[0] for block in blocks} <= OWN_HTML
    assert all(block.count("<") in (1, 3) for block in blocks)  # </details>, or details + summary
    inline = {child.type for token in tokens for child in token.children or []}
    allowed = {"text", "text_special", "strong_open", "strong_close", "softbreak"}
    assert inline <= allowed
    failures = sum(gate.verdict is not Verdict.PASS for gate in run.gates)
    groups = {str(c["name"]) for c in run.candidates} | {gate.candidate for gate in run.gates}
    listed = (run.not_run, run.left_out, run.not_applicable, run.failed_tests, run.faults)
    beside = sum(map(bool, listed))
    headings = 1 + len(groups) + beside + bool(failures)
    assert sum(token.type == "heading_open" for token in tokens) == headings
    assert sum(token.type == "fence" for token in tokens) == failures + beside


@RELAXED
@given(runs)
def test_a_summary_table_has_seven_cells_in_every_row(run: RunResult) -> None:
    types = [token.type for token in GITHUB.parse(markdown_summary(run))]
    rows = sum(1 + len(gate.judgements) for gate in run.gates)
    assert types.count("td_open") == 7 * rows


@given(st.lists(st.lists(text, min_size=2, max_size=2), min_size=1, max_size=3), text, text)
def test_a_measured_table_is_a_table_of_what_it_says(
    rows: list[list[str]], title: str, note: str
) -> None:
    table = {"title": title, "columns": ["tokens", "ms"], "rows": rows, "notes": [note]}
    gate = gate_of(Verdict.PASS, details={"tables": [table]})
    tokens = GITHUB.parse(markdown_summary(run_of(gate)))
    types = [token.type for token in tokens]
    assert types.count("th_open") == 7 + 2
    assert types.count("td_open") == 7 * (1 + len(gate.judgements)) + 2 * len(rows)
    assert types.count("fence") == 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        ("pages of 16", "pages of 16"),
        (12345, "12,345"),
        (1 / 3, "0.3333"),
        (123456.7, "123,457"),
        (0.0, "0"),
        (math.inf, "inf"),
        ("\x1b[2J", "\\x1b[2J"),
    ],
)
def test_cells_of_measured_tables(value: object, shown: str) -> None:
    assert cell_text(value) == shown


def test_summary_says_verdict_numbers_and_how_to_reproduce() -> None:
    summary = markdown_summary(run_of(gate_of(Verdict.FAIL, reproduce="pytest --infopt -k nf4")))
    assert summary.startswith("## ❌ infopt: FAIL (1 FAIL) in 1.0 s\n")
    assert "|  | kl_mean | ≤ 0.05 nats | 0.0623 nats [0.01, 0.09] | 10 (2) | FAIL |  |" in summary
    assert "<details><summary>nf4 quality: FAIL</summary>" in summary
    assert "    pytest --infopt -k nf4" in summary
    assert "What did not pass" not in markdown_summary(run_of(gate_of(Verdict.PASS)))


@RELAXED
@given(runs)
def test_annotations_are_one_obeyed_line_for_each_item_not_passed(run: RunResult) -> None:
    lines = workflow_commands(run)
    wanted = [gate for gate in run.gates if gate.verdict is not Verdict.PASS]
    assert len(lines) == len(wanted)
    for line, gate in zip(lines, wanted, strict=True):
        assert line.isprintable()
        # As the runner parses it: command, properties by comma, message; then the escapes undone.
        command, properties, message = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line).groups()  # type: ignore[union-attr]  # fails the test
        assert command == ("warning" if gate.verdict is Verdict.INCONCLUSIVE else "error")
        (name, title), *others = [part.split("=", 1) for part in properties.split(",")]
        assert (name, others) == ("title", [])
        plain = f"infopt {gate.verdict}: {visible(gate.gate)} of {visible(gate.candidate)}"
        assert _decoded(title) == plain
        assert _decoded(message) == failure_message(gate)


def _decoded(value: str) -> str:
    for escape, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n")):
        value = value.replace(escape, character)
    return value.replace("%25", "%")


@RELAXED
@given(gates)
def test_a_gate_survives_its_properties(gate: GateResult) -> None:
    properties = junit_properties(gate)
    assert gate_from_properties([["other", "x"], *map(list, properties)]) == gate
    for name, value in properties:
        assert not XML_ILLEGAL.search(name + value)
        assert (name + value).isascii()
    document = ElementTree.Element("property", value=properties[0][1])
    again = ElementTree.fromstring(ElementTree.tostring(document)).get("value")
    assert gate_from_properties([("infopt", again)]) == gate


def test_short_properties_hold_verdict_and_values() -> None:
    properties = dict(junit_properties(gate_of(Verdict.FAIL)))
    del properties["infopt"]
    assert properties == {"infopt.verdict": "FAIL", "infopt.kl_mean": "0.0623"}


@pytest.mark.parametrize("value", ["hello", "{}", "[1]", 3, '{"gate": NaN}'])
def test_properties_of_a_users_own_test_hold_no_gate(value: object) -> None:
    assert gate_from_properties([("infopt", value), ("infopt.kl_mean", "1")]) is None
    assert gate_from_properties([]) is None


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_gate_crosses_xdist_and_lands_in_junit_xml(
    pytester: pytest.Pytester, workers: int
) -> None:
    """A real run: hostile text, infinities, and both ways of getting the result out of it."""
    pytester.makepyfile(
        test_gate="""
        from pytest_infopt.results.verdict import Judgement, Verdict
        from pytest_infopt.report.junit import junit_properties
        from pytest_infopt.results.run_result import GateResult

        judgement = Judgement("kl_mean", 0.5, 3, 2, Verdict.PASS, 1.0, (0.1, float("inf")))
        RESULT = GateResult("quality", "nf4\\x00\\x1b]]>", 1.0, [judgement], notes=["\\ud800<&"])

        def test_gate(request):
            request.node.user_properties.extend(junit_properties(RESULT))
        """
    )
    pytester.makeconftest(
        """
        from pytest_infopt.report.junit import gate_from_properties

        def pytest_runtest_logreport(report):
            if report.when == "call":
                from test_gate import RESULT
                assert gate_from_properties(report.user_properties) == RESULT
                print("crossed whole")
        """
    )
    run = pytester.runpytest_subprocess if workers else pytester.runpytest_inprocess
    result = run("-s", f"-n{workers}", "--junitxml=junit.xml")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*crossed whole*"])
    root = ElementTree.parse(pytester.path / "junit.xml").getroot()
    properties = [(str(p.get("name")), p.get("value")) for p in root.iter("property")]
    gate = gate_from_properties(properties)
    assert gate is not None
    assert gate.candidate == "nf4\x00\x1b]]>"
    assert gate.judgements[0].interval == (0.1, float("inf"))


@given(st.text())
def test_visible_short_names_are_ascii(name: str) -> None:
    gate = GateResult("g", "c", 0.0, [Judgement(name, 1.0, 1, 1)])
    assert all(key.isascii() and key.isprintable() for key, _ in junit_properties(gate))
