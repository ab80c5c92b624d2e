"""Properties of an implementation, joined from items that arrive in any order."""

from __future__ import annotations

from functools import reduce
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.conformance.results import CONFORMANCE, merged, notes_on, shown
from pytest_infopt.report.annotations import workflow_commands
from pytest_infopt.report.markdown import markdown_summary
from pytest_infopt.report.message import failure_message
from pytest_infopt.report.terminal import terminal_lines
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Judgement, Verdict

NAME = "sorter pkg:make"
STATED = "Whoever bisects needs it.\n\nUsual causes: an early exit."
PASSED = Judgement("nothing_is_lost", None, 1, 1, Verdict.PASS)
FAILED = Judgement(
    "order",
    None,
    1,
    1,
    Verdict.FAIL,
    reason="[1, 0] became [1, 0]",
    details={"message": "[1, 0] became [1, 0]\nsmallest case found: [1, 0]", "law": STATED},
)
UNASKED = Judgement(
    "reverse",
    None,
    0,
    0,
    reason="not offered: reverse: sort(values, reverse)",
    details={"not_claimed": ["reverse"]},
)
EXPECTED = Judgement("stable", None, 0, 0, reason="expected failure: #812")
BROKEN = Judgement("speed", None, 1, 1, Verdict.ERROR, reason="no fixture")


def item(judgement: Judgement, seconds: float = 0.25) -> GateResult:
    error = judgement.reason if judgement.verdict is Verdict.ERROR else None
    notes = notes_on([judgement])
    return GateResult(CONFORMANCE, NAME, seconds, [judgement], error=error, notes=notes)


def joined(*judgements: Judgement) -> GateResult:
    return reduce(merged, map(item, judgements))


def run_of(*gates: GateResult) -> RunResult:
    return RunResult("1", "now", "run", {}, {"name": "m"}, [], [*gates], 1.0)


def test_any_order_of_arrival_gives_the_same_result() -> None:
    results = [joined(*order) for order in permutations([PASSED, FAILED, UNASKED, EXPECTED])]
    assert all(result == results[0] for result in results)
    assert [j.metric for j in results[0].judgements] == [
        "nothing_is_lost", "order", "reverse", "stable"
    ]  # fmt: skip
    assert results[0].seconds == 1.0


def test_a_property_that_failed_is_not_tried_until_it_passes() -> None:
    again = Judgement("order", None, 1, 1, Verdict.PASS)
    assert joined(FAILED, PASSED, again).verdict is Verdict.FAIL
    assert joined(PASSED, FAILED).verdict is Verdict.FAIL
    broke = Judgement("order", None, 1, 1, Verdict.ERROR, reason="its fixture's end")
    assert joined(again, broke).verdict is Verdict.ERROR


@given(st.lists(st.sampled_from([PASSED, FAILED, UNASKED, EXPECTED, BROKEN]), min_size=1))
def test_a_failure_is_never_joined_away(judgements: list[Judgement]) -> None:
    found = joined(*judgements).verdict
    if FAILED in judgements:
        assert found is Verdict.FAIL
    elif BROKEN in judgements:
        assert found is Verdict.ERROR
    else:
        assert found is (Verdict.PASS if PASSED in judgements else Verdict.INCONCLUSIVE)


def test_every_property_is_counted_once_and_what_did_not_run_is_named() -> None:
    count, expected, unasked = joined(PASSED, FAILED, UNASKED, EXPECTED).notes
    assert count == "4 properties: 1 passed, 1 failed, 1 failed as expected, 1 not offered"
    assert expected == "stable: expected failure: #812"
    assert unasked == "reverse not claimed: 1 property not tried (reverse)"


def test_one_fault_of_all_properties_is_said_once() -> None:
    other = Judgement("size", None, 1, 1, Verdict.ERROR, reason="no fixture")
    assert joined(BROKEN, other).error == "no fixture"


def test_tables_show_what_did_not_pass() -> None:
    result = joined(PASSED, FAILED, UNASKED)
    assert shown(result) == [FAILED]
    lines = "\n".join(terminal_lines(run_of(result), 80))
    assert "FAIL order" in lines
    assert "reference" not in lines  # nothing was compared with one
    assert "nothing_is_lost" not in lines
    gate = GateResult("quality", "int8", 1.0, [PASSED])
    assert shown(gate) == [PASSED]


def test_the_message_has_counterexample_and_property_in_every_report() -> None:
    result = joined(PASSED, FAILED)
    wanted = [
        "  FAIL order",
        "    [1, 0] became [1, 0]",
        "    smallest case found: [1, 0]",
        "    Whoever bisects needs it.",
        "    Usual causes: an early exit.",
    ]
    message = failure_message(result)
    assert [line for line in message.splitlines() if line in wanted] == wanted
    assert message in markdown_summary(run_of(result))
    (command,) = workflow_commands(run_of(result))
    assert "smallest case found" in command


def test_what_an_implementation_says_commands_no_runner() -> None:
    hostile = Judgement(
        "order", None, 1, 1, Verdict.FAIL, reason="x",
        details={"message": "::error::owned\n\x1b[2J", "law": "##[stop]"},
    )  # fmt: skip
    for line in failure_message(joined(hostile)).splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line
        assert "\x1b" not in line
