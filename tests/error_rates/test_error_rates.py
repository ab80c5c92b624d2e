"""The simulation says what the judge says, its rivals say what they are known to, and the page is
what `make error-rates` writes."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from pytest_benchmark.utils import PercentageRegressionCheck
from scipy import stats

from error_rates import recorded, rivals, sessions, traces
from error_rates.__main__ import PAGE, bound, page
from error_rates.cells import Cell, Compared, answers, promises
from error_rates.sessions import Values
from pytest_infopt.gates.registry import metrics
from pytest_infopt.judge.rules import make_test

COUNT, UNITS = 40, 80


def documents(truth: float) -> Values:
    generator = np.random.default_rng(1)
    rows = traces.lognormal(0.8, 16)(generator, COUNT, UNITS)
    return truth * traces.at_the_limit(rows)


def ratios(shift: float) -> Values:
    return np.random.default_rng(2).normal(shift, 0.2, (COUNT, UNITS))


@pytest.mark.parametrize("truth", [0.3, 1.0, 3.0])
@pytest.mark.parametrize(
    ("name", "limit", "at_once", "rows"),
    [
        ("kl_mean", 1.0, lambda rows: sessions.mean(rows, 1.0, traces.CLIP), documents),
        ("tpot_ratio", 1.2, lambda rows: sessions.sign(rows, 1.2), lambda x: ratios(x - 1)),
        ("tpot_mean_ratio", 1.2, lambda r: sessions.log_mean(r, 1.2), lambda x: ratios(x - 1)),
    ],
)
def test_sessions_at_once_end_as_the_judge_ends_them(
    name: str,
    limit: float,
    at_once: Callable[[Values], sessions.Verdicts],
    rows: Callable[[float], Values],
    truth: float,
) -> None:
    found = at_once(rows(truth))
    assert found == sessions.one_by_one(name, rows(truth), limit)
    if truth != 1.0:
        assert max(found) > 0.5


@pytest.mark.parametrize(("lost", "gained"), [(0.0, 0.0), (0.1, 0.1), (0.4, 0.1), (0.2, 0.0)])
def test_tasks_at_once_end_as_the_judge_ends_them(lost: float, gained: float) -> None:
    """Some early, some by the exact test at their end; the judge takes lists of outcomes."""
    right, left = answers(UNITS, lost, gained, COUNT)
    limit = 0.2
    passed = failed = 0
    for session in 2 * left + right:
        test = make_test(metrics()["task_accuracy_loss"], limit, UNITS)
        for outcome in session:
            test.update([outcome])
            if min(test.p_pass, test.p_fail) <= sessions.ALPHA:
                break
        passed += test.p_pass <= sessions.ALPHA < test.p_fail
        failed += test.p_fail <= sessions.ALPHA
    assert sessions.paired(right - left, limit) == (passed / COUNT, failed / COUNT)
    assert (right - left).mean() == pytest.approx(lost - gained, abs=5 / math.sqrt(right.size))


def test_promises_hold_in_a_tenth_of_the_sessions() -> None:
    """All cells of the page whose sessions are simulated at once."""
    found, count = [], 200
    for cell in promises(np.random.default_rng(5), count):
        if cell.metric.startswith("ttft"):
            break
        found.append(cell)
    assert {cell.metric for cell in found} >= {"kl_mean", "tpot_ratio", "tpot_mean_ratio"}
    assert not [cell for cell in found if max(cell.passed, cell.failed) > bound(count)]


def test_scaled_documents_lie_at_the_limit() -> None:
    rows = traces.catastrophes(20, 100)(np.random.default_rng(0), COUNT, UNITS)
    assert traces.at_the_limit(rows).mean() == pytest.approx(1, rel=1e-6)
    counted = np.minimum(traces.at_the_limit(rows, traces.CLIP), traces.CLIP)
    assert counted.mean() == pytest.approx(1, rel=1e-6)
    each = np.minimum(traces.at_the_limit(rows, traces.CLIP, each=True), traces.CLIP)
    assert each.mean(axis=1) == pytest.approx(np.ones(COUNT), rel=1e-6)


def test_the_page_says_no_rate_beyond_what_is_promised() -> None:
    """It is written by the command alone: its figures are looked at here."""
    text = PAGE.read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    for row in rows:
        rates = [float(cell.strip(" |%") or 0) for cell in row[2:]]
        assert len(rates) == 2
        assert max(rates) <= 100 * bound(2000)
    assert "2,000 sessions" in text


def test_the_page_is_made_of_cells() -> None:
    text = page(
        [Cell("kl_mean", "these", 0.004, 0.0)],
        [Compared("PASS, that", "those", {"infopt": 0.0, "other": 0.2})],
        [Compared("within", "these", {"1 s": 0.5, "mean": "2 s"})],
        2000,
    )
    assert "| `kl_mean` | these | 0.4 % | 0 |" in text
    assert "| PASS, that | infopt | other |\n|---|---|---|\n| those | 0 | 20.0 % |" in text
    assert "| within | 1 s | mean |\n|---|---|---|\n| these | 50.0 % | 2 s |" in text


@pytest.mark.parametrize(("ratio", "right"), [(1.0, 0), (1.5, 1)])
def test_sessions_of_a_trace_take_the_seconds_of_their_calls(ratio: float, right: int) -> None:
    """Of calls that all take 10 ms, the pairs to a verdict are the judge's, each of 20 ms."""
    found = recorded.sessions_of(np.full(8000, 0.01), np.random.default_rng(0), 3)
    seconds = recorded.decided(found, ratio)
    assert (seconds[1 - right] == math.inf).all()
    judged = sessions.log_mean_crossings(np.full((1, 900), math.log(ratio)), recorded.LIMIT)[right]
    signs = sessions.sign_crossings(np.full((1, 900), math.log(ratio)), recorded.LIMIT)[right]
    pairs = 1 + (min if right else max)(judged[0], signs[0])
    assert seconds[right] == pytest.approx(np.full(3, 0.02 * pairs))


def test_recorded_traces_are_noisy_and_unchanged_code_does_not_fail_on_them() -> None:
    for trace in recorded.traces().values():
        assert trace.std() > 0.05 * trace.mean()
        found = recorded.sessions_of(trace, np.random.default_rng(0), 100)
        assert (recorded.decided(found, 1.0)[1] == math.inf).mean() >= 1 - bound(100)


# Rivals: what STATISTICS of theirs, or their documentation, says.


def test_nel_gate_lets_answers_pass_that_happen_to_agree() -> None:
    """60 % of ten items agree although one in twenty is lost: .95¹⁰."""
    answers = np.ones((1, 10))
    assert rivals.nel_gate(answers, answers, 0.02).all()
    lost = answers.copy()
    lost[0, 0] = 0
    assert not rivals.nel_gate(answers, lost, 0.02).any()


def test_pytest_benchmark_decides_so() -> None:
    generator = np.random.default_rng(3)
    reference, candidate = np.exp(generator.normal(0, 0.3, (2, 60, 20)))
    check = PercentageRegressionCheck("mean", 5)
    own = [
        check.fails({"mean": now}, {"mean": before}) is not None
        for now, before in zip(candidate.mean(1), reference.mean(1), strict=True)
    ]
    assert rivals.pytest_benchmark(reference, candidate).tolist() == own
    assert 5 < sum(own) < 55


def test_mlperf_asks_for_as_many_requests_as_its_documentation_says() -> None:
    """No late request: 44 of them for a 90 % quantile, 459 for 99 %."""
    assert next(rivals._least_in_time(0.9, 999)) + 1 == 45
    assert next(rivals._least_in_time(0.99, 999)) == 459
    assert rivals.mlperf(np.zeros((3, 44), bool), 0.9) == 1
    assert rivals.mlperf(np.zeros((3, 43), bool), 0.9) == 0
    assert rivals.mlperf(np.ones((3, 999), bool), 0.9) == 0


def test_unpaired_and_independent_deviations_are_what_they_are() -> None:
    generator = np.random.default_rng(0)
    tokens = generator.exponential(1, (400, 100))
    share = rivals.llama_cpp(tokens, 1.0).mean()
    assert stats.binomtest(int(400 * share), 400, 0.01).pvalue > 1e-6 or share > 0.01
    answers = (generator.random((1, 1000)) < 0.5).astype(float)
    assert not rivals.lm_eval(answers, answers, 0.02).any()
    assert rivals.lm_eval(answers, answers, 0.06).all()


@pytest.mark.parametrize("name", rivals.TIMING)
def test_each_timing_rule_sees_a_slow_candidate_and_not_an_equal_one(name: str) -> None:
    generator = np.random.default_rng(0)
    reference, equal = np.exp(generator.normal(0, 0.02, (2, 50, 120)))
    assert rivals.TIMING[name](reference, 1.3 * equal).all()
    assert rivals.TIMING[name](reference, equal).mean() < 0.2
    assert math.isfinite(reference.sum())
