"""What services take of a run: comment, badge, JSON lines, model card; nothing in it is obeyed."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_strategies import RELAXED, runs

from pytest_infopt.console.comment import LONGEST, MARKER, comment
from pytest_infopt.console.comparison import differences
from pytest_infopt.report.badge import badge
from pytest_infopt.report.document import result_document
from pytest_infopt.report.json_lines import json_lines
from pytest_infopt.report.model_card import model_card
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Verdict
from pytest_infopt.strict_json import dumps, loads

GITHUB = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
TEXT = {"text", "text_special", "softbreak"}


@RELAXED
@given(run=runs, before=st.none() | runs)
def test_a_comment_has_no_markup_but_our_own(run: RunResult, before: RunResult | None) -> None:
    text = comment(run, before)
    assert text.startswith(f"{MARKER}\n## ")
    assert len(text) <= LONGEST
    tokens = GITHUB.parse(text)
    blocks = [token.content.strip() for token in tokens if token.type == "html_block"]
    tags = {re.split(r"[\s>]", block[1:])[0] for block in blocks}
    assert tags <= {"details", "/details", "!--"}
    assert sum(block.startswith("<!--") for block in blocks) == 1
    assert {child.type for token in tokens for child in token.children or []} <= TEXT
    headings = [token.tag for token in tokens if token.type == "heading_open"]
    assert headings == ["h2"] + ["h3"] * (before is not None)


@RELAXED
@given(runs)
def test_a_run_differs_from_itself_in_nothing(run: RunResult) -> None:
    once = {(gate.candidate, gate.gate): gate for gate in run.gates}
    plain = replace(run, gates=list(once.values()))
    assert list(differences(plain, plain)) == []
    assert "No judgement is otherwise." in comment(plain, plain)


def test_a_comment_that_would_be_too_long_says_where_the_rest_is() -> None:
    run = RunResult("1", "", "id", {}, {"name": "r"}, [], [], 1.0, not_run=["x" * 40_000] * 2)
    text = comment(run)
    assert len(text) <= LONGEST
    assert text.endswith("report.html and summary.md.")


@RELAXED
@given(runs)
def test_a_badge_has_the_fields_of_shields(run: RunResult) -> None:
    """https://shields.io/badges/endpoint-badge; the message goes into an SVG, and is short."""
    found = badge(run)
    assert found["schemaVersion"] == 1
    assert found["label"] == "infopt"
    assert found["message"].startswith(str(run.verdict))
    assert found["message"].isascii()
    assert found["color"] in {"brightgreen", "red", "yellow", "lightgrey"}
    assert (found["color"] == "brightgreen") is (run.verdict is Verdict.PASS)
    assert found["isError"] is (run.verdict is Verdict.ERROR)


@RELAXED
@given(runs)
def test_json_lines_are_the_rows_of_the_result(run: RunResult) -> None:
    lines = list(json_lines(run))
    assert all(line.isprintable() for line in lines)
    rows = result_document(run)["gates"]
    told = {name: getattr(run, name) for name in ("run_id", "started", "version")}
    # As JSON gives them back: tuples are lists there.
    assert list(map(loads, lines)) == [loads(dumps({"schema": 1, **told, **row})) for row in rows]


@RELAXED
@given(runs)
def test_a_model_card_has_a_row_for_each_verdict(run: RunResult) -> None:
    tokens = GITHUB.parse(model_card(run))
    judged = [j for gate in run.gates for j in gate.judgements if j.verdict is not None]
    types = [token.type for token in tokens]
    assert types.count("td_open") == 6 * len(judged)
    assert types.count("html_block") == 0
    assert {child.type for token in tokens for child in token.children or []} <= TEXT
