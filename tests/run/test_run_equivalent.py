"""`infopt_equivalent` in a user's own tests: outcome, expected failures, and the report's row."""

from __future__ import annotations

import pytest

TEST = """
import pytest
from pytest_infopt import Answer, Side

def drifting(after):
    count = [0]
    def answer(ids):
        count[0] += 1
        return [sum(ids), int(count[0] > after)]
    return answer

def test_sound(infopt_equivalent):
    assert infopt_equivalent(drifting(10**6), axis="first/hundredth request", prompts=[[1], [2]])

def test_wrong(infopt_equivalent):
    infopt_equivalent(drifting(50), axis="first/hundredth request", prompts=[[1], [2]])

@pytest.mark.xfail(reason="engine#123: drifts", raises=AssertionError, strict=True)
def test_known(infopt_equivalent):
    infopt_equivalent(drifting(50), axis="first/hundredth request", prompts=[[1], [2]])

def test_unexercised(infopt_equivalent):
    infopt_equivalent(drifting(50), axis="cold/warm", prompts=[[1], [2]])
"""


def test_outcomes_and_rows(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST)
    run = pytester.runpytest_inprocess("--junitxml=junit.xml", "-p", "no:cacheprovider")
    run.assert_outcomes(passed=1, failed=2, xfailed=1)
    run.stdout.fnmatch_lines(
        [
            "*NotEquivalentError: not equivalent along first/hundredth request: 2 of 2 prompts *",
            "*AxisNotExercisedError: axis 'cold/warm' was not exercised: no cached tokens *",
        ]
    )
    report = (pytester.path / "junit.xml").read_text()
    assert report.count("first/hundredth request") >= 3
    assert "INCONCLUSIVE" in report
