"""The terminal's lines: never too wide, never obeyed, complete, and laid out as promised."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_strategies import HOSTILE, RELAXED, gates, judgements, runs, text

from pytest_infopt.gates.registry import gates as installed
from pytest_infopt.gates.registry import metrics
from pytest_infopt.report.message import failure_message
from pytest_infopt.report.table import Row, table_lines
from pytest_infopt.report.terminal import terminal_lines
from pytest_infopt.report.text import cells, defused, quoted, visible, wrapped
from pytest_infopt.report.wording import budget_text, interval_text, remedy_text, value_text
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Judgement, Verdict


def least_cells(line: str) -> int:
    """Terminal cells by the Unicode tables, marks that stand on another character taking none."""
    drawn = [c for c in line if unicodedata.category(c) not in ("Mn", "Me")]
    return len(drawn) + sum(unicodedata.east_asian_width(c) in ("W", "F") for c in drawn)


def is_obeyed(line: str) -> bool:
    """Whether a CI runner would take the line for a command."""
    return line.lstrip().startswith("::") or "##[" in line or "##vso[" in line


KL = Judgement("kl_mean", 0.0623, 12288, 48, Verdict.FAIL, 0.05, (0.0551, 0.0713), "beyond")
PERPLEXITY = Judgement(
    "perplexity_ratio", 1.0312, 12288, 48, Verdict.INCONCLUSIVE, 1.03, (1.02, 1.05), "", 120, 0.012
)
FINDING = {
    "document": "doc-3",
    "position": 17,
    "context": "The capital is\n",
    "true_token": " Paris",
    "reference_top": [[" Paris", 0.91], [" Lyon", 0.02]],
    "candidate_top": [[" Lyon", 0.5]],
    "kl": 1.25,
    "gap_ulps": 20400.0,
}
QUALITY = GateResult(
    gate="quality",
    candidate="nf4",
    seconds=21.04,
    judgements=[KL, PERPLEXITY, Judgement("top5_overlap", 0.5, 12288, 48)],
    notes=["stopped after 30 s"],
    findings=[FINDING],
    reproduce="pytest --infopt -k nf4",
    details={"diagnosis": ["first layer beyond the noise floor: layers.3"]},
)
LATENCY = GateResult("latency", "int8", 0.2, error="out of memory\nat layer 3")
MEMORY = GateResult(
    "memory", "int8", 1.0, [Judgement("weight_bytes", 2**20, 1, 1, Verdict.PASS, 2**21)]
)
RUN = RunResult(
    version="0.1.0",
    started="2026-11-22T10:00:00+00:00",
    run_id="r1",
    environment={},
    reference={"name": "smol"},
    candidates=[{"name": "int8"}, {"name": "nf4"}, {"name": "bf16"}],
    gates=[QUALITY, LATENCY, MEMORY],
    seconds=61.2,
    not_run=["latency of bf16: no server"],
    not_applicable=["nf4: not applicable to engine x: memory needs memory"],
)


def test_layout() -> None:
    assert terminal_lines(RUN, 90) == [
        "infopt 0.1.0, run r1, reference smol",
        "",
        "metric              budget       value [interval]              n (units)    verdict",
        "int8: ERROR",
        " latency, 0.2 s                                                             ERROR",
        " memory, 1.0 s                                                              PASS",
        "  weight_bytes      ≤ 2 MiB      1 MiB                         1 (1)        PASS",
        "nf4: FAIL",
        " quality, 21.0 s                                                            FAIL",
        "  kl_mean           ≤ 0.05 nats  0.0623 nats [0.0551, 0.0713]  12,288 (48)  FAIL",
        "  perplexity_ratio  ≤ 1.03x      1.031x [1.02x, 1.05x]         12,288 (48)  INCONCLUSIVE",
        "  top5_overlap      –            50 %                          12,288 (48)  –",
        "   stopped after 30 s",
        "",
        "NOT APPLICABLE",
        "  nf4: not applicable to engine x: memory needs memory",
        "",
        "NOT RUN",
        "  latency of bf16: no server",
        "",
        "ERRORS",
        "  int8 latency: out of memory",
        "",
        "INCONCLUSIVE",
        "  nf4 quality: perplexity_ratio 1.031x, budget ≤ 1.03x, interval [1.02x, 1.05x], n 12,288",
        "  (48), need about 120 more documents; smallest excess over the limit that this many "
        "would",
        "  catch: 0.012x",
        "",
        "FAILED",
        "  nf4 quality: kl_mean 0.0623 nats, budget ≤ 0.05 nats, interval [0.0551, 0.0713], n",
        "  12,288 (48), beyond",
        "  reproduce: pytest --infopt -k nf4",
        "",
        "infopt: FAIL (1 PASS, 1 FAIL, 1 ERROR, 1 not run) in 61.2 s",
    ]


def test_a_narrow_terminal_gets_value_and_interval_in_two_lines() -> None:
    narrow = replace(RUN, gates=[replace(QUALITY, judgements=[KL], notes=[])], candidates=[])
    assert terminal_lines(narrow, 70)[2:7] == [
        "metric            budget       value [interval]   n (units)    verdict",
        "nf4: FAIL",
        " quality, 21.0 s                                               FAIL",
        "  kl_mean         ≤ 0.05 nats  0.0623 nats        12,288 (48)  FAIL",
        "                               [0.0551, 0.0713]",
    ]


def test_failure_message() -> None:
    assert failure_message(QUALITY).splitlines() == [
        "quality of nf4: FAIL",
        "  FAIL kl_mean 0.0623 nats, budget ≤ 0.05 nats, interval [0.0551, 0.0713], "
        "n 12,288 (48), beyond",
        "  INCONCLUSIVE perplexity_ratio 1.031x, budget ≤ 1.03x, interval [1.02x, 1.05x], "
        "n 12,288 (48), need about 120 more documents; "
        "smallest excess over the limit that this many would catch: 0.012x",
        "  note: stopped after 30 s",
        "  document doc-3, token 17: true token ' Paris', KL 1.25 nats, "
        "reference's logit gap 20,400 ulp",
        r"    after 'The capital is\n'",
        "    reference: ' Paris' 91.00 %, ' Lyon' 2.00 %",
        "    candidate: ' Lyon' 50.00 %",
        "  diagnosis:",
        "    first layer beyond the noise floor: layers.3",
        "  reproduce:",
        "    pytest --infopt -k nf4",
    ]


def test_an_error_says_nothing_about_the_candidate() -> None:
    message = failure_message(LATENCY)
    assert "says nothing about the candidate" in message
    assert "    out of memory\n    at layer 3" in message


def test_a_traceback_is_kept_line_by_line_and_its_sentence_stands_alone() -> None:
    frames = [
        "Traceback (most recent call last):",
        '  File "kernel.py", line 3, in run',
        "KeyError",
    ]
    gate = replace(LATENCY, error="\n".join(["the worker ended", *frames]))
    told = terminal_lines(replace(RUN, gates=[gate]), 100)
    assert "  int8 latency: the worker ended" in told
    assert not any(frame.strip() in line for frame in frames for line in told)
    assert [f"    {line}" for line in ["the worker ended", *frames]] == [
        line for line in failure_message(gate).splitlines() if line.startswith("    ")
    ]


def test_an_error_of_several_gates_is_told_once() -> None:
    other = replace(QUALITY, judgements=[], error="out of memory")
    told = terminal_lines(replace(RUN, gates=[LATENCY, other]), 100)
    assert [line for line in told if "out of memory" in line] == [
        "  int8 latency, nf4 quality: out of memory"
    ]


def test_a_gate_without_any_judgement_says_so() -> None:
    empty = GateResult("quality", "nf4", 1.0)
    assert "no metric was judged" in failure_message(empty)
    assert "  nf4 quality: no metric was judged, so nothing was shown" in terminal_lines(
        replace(RUN, gates=[empty]), 100
    )


def test_a_finding_of_a_users_own_gate_may_leave_keys_out() -> None:
    message = failure_message(replace(QUALITY, findings=[{"document": "d", "kl": None}]))
    assert "  document d, token ?: \n" in message


def test_long_context_is_cut_at_its_far_end() -> None:
    long = replace(QUALITY, findings=[FINDING | {"context": "x" * 5000 + "the end"}])
    message = failure_message(long)
    assert "the end'" in message
    assert max(map(len, message.splitlines())) < 300


@RELAXED
@given(runs, st.integers(40, 200))
def test_no_line_exceeds_the_width_or_is_obeyed(run: RunResult, width: int) -> None:
    for line in terminal_lines(run, width):
        assert line.isprintable(), ascii(line)
        assert least_cells(line) <= width, ascii(line)
        assert not is_obeyed(line), ascii(line)


@RELAXED
@given(gates)
def test_a_failure_message_is_printable_and_not_obeyed(gate: GateResult) -> None:
    lines = failure_message(gate).split("\n")
    assert all(line.isprintable() for line in lines)
    assert not any(map(is_obeyed, lines))
    assert len(lines) <= 40 + len((gate.error or "").splitlines())


@given(text)
def test_visible_text_is_printable_and_printable_text_is_itself(raw: str) -> None:
    shown = visible(raw)
    assert shown.isprintable()
    assert visible(shown) == shown
    assert "".join(c if c.isprintable() else "" for c in raw) in shown or not raw.isprintable()


@given(text, text)
def test_different_tokens_are_quoted_differently(one: str, other: str) -> None:
    assert (quoted(one) == quoted(other)) == (one == other)
    assert quoted(one).isprintable()


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        ("", 0),
        ("ab", 2),
        ("日本", 4),
        ("Ｆ", 2),
        ("e\u0301", 1),
        ("é", 1),
        ("☺\ufe0f", 2),
        ("≤", 1),
    ],
)
def test_cells(shown: str, wanted: int) -> None:
    assert cells(shown) == wanted


@given(text.map(visible), st.integers(4, 60), st.integers(0, 2))
def test_wrapping_keeps_every_character_and_the_width(shown: str, width: int, indent: int) -> None:
    lines = wrapped(shown, width, " " * indent)
    assert all(least_cells(line) <= width for line in lines)
    if not any(mark in shown for mark in ("::", "##")):
        assert "".join(line[indent:] for line in lines).replace(" ", "") == shown.replace(" ", "")


@pytest.mark.parametrize("command", ["::error::x", "  ::add-mask::x", "a ##[group]b", "##vso[x]"])
def test_defusing_keeps_the_width_and_stops_the_command(command: str) -> None:
    assert is_obeyed(command)
    assert not is_obeyed(defused(command))
    assert len(defused(command)) == len(command)


def test_defusing_leaves_node_ids_alone() -> None:
    line = "pytest a.py::test_b[::c]"
    assert defused(line) == line


@given(st.lists(st.tuples(text, text, text), min_size=1, max_size=4), st.integers(20, 80))
def test_a_table_keeps_the_width_and_loses_no_cell(
    rows: list[tuple[str, str, str]], width: int
) -> None:
    shown = [tuple(map(visible, row)) for row in rows]
    lines = table_lines([Row(row, indent=i % 3) for i, row in enumerate(shown)], width)
    assert all(least_cells(line) <= width for line in lines)
    wanted = sorted(c for row in shown for cell in row for c in cell if c not in " :#·")
    assert sorted(c for line in lines for c in line if c not in " :#·") == wanted


def test_a_table_that_fits_has_one_line_a_row_and_aligned_columns() -> None:
    lines = table_lines([Row(("a", "日本", "x")), Row(("abc", "d", "y"), indent=2)], 40)
    assert lines == ["a      日本  x", "  abc  d     y"]


def test_columns_move_together_before_they_are_given_up() -> None:
    """They are given up where words would break."""
    row = Row(("a_long_name", "0.5", "INCONCLUSIVE"), indent=1)
    rows = [Row(("metric", "value", "verdict")), row]
    closer = ["metric       value verdict", " a_long_name 0.5   INCONCLUSIVE"]
    assert table_lines(rows, 32) == table_lines(rows, 31) == closer
    assert table_lines(rows, 28) == ["metric value verdict", " a_long_name 0.5", " INCONCLUSIVE"]
    with pytest.raises(ValueError, match="takes two"):
        wrapped("abc", 3, "  ")


@pytest.mark.parametrize("width", [40, 50, 60, 80])
def test_no_word_is_broken_on_a_narrow_terminal(width: int) -> None:
    lines = terminal_lines(RUN, width)
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    whole = {word for line in terminal_lines(RUN, 160) for word in line.split()}
    assert words == whole


@given(judgements)
def test_wording_of_any_judgement_is_printable(judgement: Judgement) -> None:
    for words in (budget_text(judgement), interval_text(judgement), remedy_text("x", judgement)):
        assert words.isprintable()


@pytest.mark.parametrize("name", sorted(metrics()))
def test_budget_direction_follows_the_metric(name: str) -> None:
    sign = "≥" if metrics()[name].higher_is_better else "≤"
    assert budget_text(Judgement(name, None, 0, 0, budget=0.5)).startswith(f"{sign} ")


def test_interval_drops_the_unit_only_where_it_is_the_values() -> None:
    same = Judgement("kl_mean", 0.5, 1, 1, interval=(0.25, 0.75))
    assert interval_text(same) == "[0.25, 0.75]"
    mixed = Judgement("ttft_p50", 0.5, 1, 1, interval=(0.25, 2.0))
    assert interval_text(mixed) == "[250 ms, 2 s]"
    open_end = Judgement("kl_mean", 0.5, 1, 1, interval=(0.25, float("inf")))
    assert interval_text(open_end) == "[0.25, ∞]"


@pytest.mark.parametrize("gate", [*installed(), "my own"])
def test_remedy_names_the_units_to_add(gate: str) -> None:
    words = remedy_text(gate, Judgement("kl_mean", 1.0, 1, 1, needed=1200))
    nouns = {
        "equivalence": "prompts",
        "quality": "documents",
        "endpoint": "documents",
        "same-model": "requests",
        "kv-cache": "prompts",
        "prefix-cache": "prompts",
        "served-prefix": "prompts",
        "long-context": "texts",
        "batching": "pairs of runs",
        "speculative": "prompts",
        "semantic-cache": "hits",
        "latency": "pairs of requests",
        "throughput": "loads",
        "recorded": "units",
        "memory": "readings",
        "modules": "passes",
        "stability": "readings",
        "self-check": "pairs of requests",
        "margins": "readings",
        "tasks": "items",
        "my own": "samples",
    }
    assert words == f"need about 1,200 more {nouns[gate]}"


def test_numbers_that_are_none_are_shown_as_such() -> None:
    assert value_text("kl_mean", None) == "–"
    assert value_text("kl_mean", float("nan")) == "NaN"
    assert value_text("kl_mean", float("-inf")) == "−∞"
    assert value_text("my_metric", 0.123456) == "0.1235"


def test_hostile_list_has_what_the_properties_are_meant_to_meet() -> None:
    assert any(is_obeyed(part.strip()) for part in HOSTILE)
    assert any(not part.isprintable() for part in HOSTILE)
    assert any(least_cells(part) > len(part) for part in HOSTILE)
