"""The gate's judge: verdicts, stopping, sharing of error rates, identical outputs, resuming."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pytest_infopt.gates.registry import gate_named, metrics
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.judge.multiplicity import holm
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.results.verdict import Judgement, Verdict


def quality_judge(planned: int = 64, **limits: float) -> GateJudge:
    budgets = {name: Budget(metrics()[name], limit) for name, limit in limits.items()}
    return GateJudge(
        gate_named("quality").metrics,
        budgets,
        alpha_pass=0.01,
        alpha_fail=0.01,
        planned=planned,
        samples="documents",
        identical_outputs_pass=True,
    )


def latency_judge(planned: int = 3000, **limits: float) -> GateJudge:
    budgets = {name: Budget(metrics()[name], limit) for name, limit in limits.items()}
    return GateJudge(
        gate_named("latency").metrics, budgets, alpha_pass=0.01, alpha_fail=0.01, planned=planned
    )


def of(judgements: list[Judgement], name: str) -> Judgement:
    return next(judgement for judgement in judgements if judgement.metric == name)


def document(generator: np.random.Generator, harm: float) -> dict[str, float | list[float]]:
    tokens = [float(x) for x in harm * 0.02 * generator.lognormal(-0.5, 1, 128)]
    return {
        "kl_mean": math.fsum(tokens) / len(tokens),
        "kl_p99": tokens,
        "kl_max": max(tokens),
        "perplexity_ratio": float(generator.normal(0.005 * harm, 0.01)),
        "top1_agreement": float(1 - generator.binomial(128, 0.01 * harm) / 128),
    }


def measure_until_decided(judge: GateJudge, generator: np.random.Generator, harm: float) -> None:
    for _ in range(judge.planned):
        judge.update(document(generator, harm), False, 128)
        if judge.decided:
            return
    pytest.fail(f"not decided: {judge.judgements(exhausted=True)}")


LIMITS = {"kl_mean": 0.05, "kl_p99": 0.5, "perplexity_ratio": 1.02, "top1_agreement": 0.96}


def test_a_good_candidate_passes_early_and_says_why() -> None:
    judge, generator = quality_judge(256, **LIMITS), np.random.default_rng(0)
    measure_until_decided(judge, generator, 0.5)
    rows = judge.judgements(exhausted=False)
    assert [row.metric for row in rows] == [metric.name for metric in judge.metrics]
    for name, limit in LIMITS.items():
        row = of(rows, name)
        assert (row.verdict, row.budget) == (Verdict.PASS, limit)
        assert row.reason.startswith("keeps ")
        assert row.units < 64
        assert row.n == 128 * row.units
        assert row.interval[0] <= row.value <= row.interval[1]  # type: ignore[index, operator]
        assert row.details["confidence"] == 0.98
    free = of(rows, "kl_max")
    assert free.verdict is None
    assert free.value is not None


def test_a_bad_candidate_fails_and_says_by_how_much() -> None:
    judge, generator = quality_judge(256, **LIMITS), np.random.default_rng(0)
    measure_until_decided(judge, generator, 8)
    rows = judge.judgements(exhausted=False)
    row = next(row for row in rows if row.verdict is Verdict.FAIL)
    budget = Budget(metrics()[row.metric], LIMITS[row.metric])
    assert budget.describe() in row.reason
    assert "4 metrics" in row.reason
    assert row.value is not None
    beyond = (
        row.value < budget.limit if budget.metric.higher_is_better else row.value > budget.limit
    )
    assert beyond
    others = [row for row in rows if row.verdict is Verdict.INCONCLUSIVE]
    assert others, "one FAIL decides the gate, the rest is shown as seen so far"
    for other in others:
        assert f"when {row.metric} failed, after {other.units} documents" in other.reason
        assert (other.needed, other.value is None) == (None, False)


def test_every_metric_is_decided_where_that_is_asked_for() -> None:
    budgets = {name: Budget(metrics()[name], limit) for name, limit in LIMITS.items()}
    judge = GateJudge(
        gate_named("quality").metrics,
        budgets,
        alpha_pass=0.01,
        alpha_fail=0.01,
        planned=256,
        every_metric=True,
    )
    measure_until_decided(judge, np.random.default_rng(0), 8)
    verdicts = {row.verdict for row in judge.judgements(exhausted=False) if row.budget}
    assert verdicts <= {Verdict.FAIL, Verdict.PASS}


def test_too_little_data_is_inconclusive_and_says_how_much_more() -> None:
    judge = quality_judge(64, kl_mean=0.05)
    for _ in range(10):
        judge.update({"kl_mean": 0.01})
    assert not judge.decided
    row = of(judge.judgements(exhausted=True), "kl_mean")
    assert row.verdict is Verdict.INCONCLUSIVE
    assert row.needed is not None
    for _ in range(row.needed):
        judge.update({"kl_mean": 0.01})
    assert of(judge.judgements(exhausted=True), "kl_mean").verdict is Verdict.PASS


def test_at_the_limit_no_number_is_promised() -> None:
    judge = latency_judge(ttft_ratio=1.05)
    for i in range(60):
        judge.update({"ttft_ratio": math.log(1.05) + (0.01 if i % 2 else -0.01)})
    row = of(judge.judgements(exhausted=True), "ttft_ratio")
    assert (row.verdict, row.needed) == (Verdict.INCONCLUSIVE, None)
    assert "too near the limit" in row.reason
    assert row.detectable is not None


def test_nothing_measured_is_inconclusive() -> None:
    judge = quality_judge(kl_mean=0.05, kl_p99=1.0)
    for _ in range(40):
        judge.update({"kl_mean": 0.0})
    assert judge.decided  # what is not measured does not hold up the rest
    row = of(judge.judgements(exhausted=True), "kl_p99")
    assert row.verdict is Verdict.INCONCLUSIVE
    assert row.reason == "not measured by this engine"
    assert (row.value, row.n, row.units) == (None, 0, 0)


def test_without_budgets_everything_planned_is_measured() -> None:
    judge = quality_judge()
    for _ in range(64):
        judge.update({"kl_mean": 0.0}, True)
    assert not judge.decided
    assert all(row.verdict is None for row in judge.judgements(exhausted=True))


# Identical outputs.

IDENTICAL = {
    "kl_mean": 0.0,
    "kl_p99": [0.0] * 16,
    "kl_max": 0.0,
    "perplexity_ratio": 0.0,
    "top1_agreement": 1.0,
    "true_probability_rms": 0.0,
}


@pytest.mark.parametrize("n", [1, 2, 24, 25, 50, 100])
def test_identical_outputs_pass_whatever_their_number(n: int) -> None:
    """COMPETITORS 3.2: two of the tools there fail every one of these."""
    judge = quality_judge(
        n, kl_mean=0.0, kl_p99=0.01, kl_max=0.0, perplexity_ratio=1.0001, top1_agreement=1.0
    )
    for _ in range(n):
        judge.update(IDENTICAL, True)
    for row in judge.judgements(exhausted=True):
        if row.budget is not None:
            assert (row.verdict, row.reason) == (Verdict.PASS, "identical outputs")


def test_identical_outputs_stop_early_at_25_documents_only() -> None:
    judge = quality_judge(256, kl_max=0.0, kl_mean=0.0)  # neither can be decided before all 256
    for n in range(1, 40):
        judge.update(IDENTICAL, True)
        assert judge.decided == (n >= 25)


def test_one_difference_ends_the_privilege() -> None:
    judge = quality_judge(256, kl_max=0.0)
    for _ in range(100):
        judge.update({"kl_max": 0.0}, True)
    judge.update({"kl_max": 0.5}, False)
    assert of(judge.judgements(exhausted=True), "kl_max").verdict is Verdict.FAIL


def test_equal_tokens_say_nothing_about_time() -> None:
    judge = latency_judge(ttft_ratio=1.05)
    for _ in range(40):
        judge.update({"ttft_ratio": math.log(1.5)}, True)
    assert of(judge.judgements(exhausted=True), "ttft_ratio").verdict is Verdict.FAIL


# Both sides, and staying decided.


def test_what_was_decided_stays_decided() -> None:
    judge = latency_judge(ttft_ratio=1.05)
    for _ in range(9):
        judge.update({"ttft_ratio": 0.0})
    assert judge.decided
    for i in range(40):
        judge.update({"ttft_ratio": math.log(1.05) + (0.01 if i % 2 else -0.01)})
    row = of(judge.judgements(exhausted=False), "ttft_ratio")
    assert judge.decided
    assert row.verdict is Verdict.PASS
    assert row.interval is not None
    assert row.interval[1] <= 1.05  # the interval does not take it back either


def test_fail_wins_over_an_earlier_pass_and_says_so() -> None:
    judge = latency_judge(ttft_ratio=1.05)
    for x in [0.0] * 9 + [0.3] * 60:
        judge.update({"ttft_ratio": x})
    row = of(judge.judgements(exhausted=True), "ttft_ratio")
    assert row.verdict is Verdict.FAIL
    assert "FAIL counts" in row.details["conflict"]


# Multiplicity.


@given(st.lists(st.floats(0, 1), max_size=5), st.floats(0.01, 0.4))
def test_holm_is_the_closed_test_of_bonferroni(p_values: list[float], alpha: float) -> None:
    """A hypothesis is rejected exactly if every intersection that contains it is."""
    named = dict(enumerate(p_values))
    families = [
        family
        for size in range(1, len(named) + 1)
        for family in itertools.combinations(named, size)
    ]
    expected = {
        name
        for name in named
        if all(
            min(named[member] for member in family) <= alpha / len(family)
            for family in families
            if name in family
        )
    }
    assert holm(named, alpha) == expected


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, math.nan])
def test_holm_refuses_what_is_no_error_rate(alpha: float) -> None:
    with pytest.raises(ValueError, match="error rate"):
        holm({"a": 0.5}, alpha)


def test_twenty_metrics_at_their_limits_rarely_fail() -> None:
    """COMPETITORS 3.9: P(any FAIL) ≤ alpha_fail, however many metrics look."""
    generator, trials, failed, alone, alpha = np.random.default_rng(2), 20, 0, 0, 0.2
    names = [metric.name for metric in gate_named("latency").metrics]
    limits = dict.fromkeys(names, 1.0)
    quantiles = {name: metrics()[name].quantile for name in names}
    for _ in range(trials):
        budgets = {name: Budget(metrics()[name], limit) for name, limit in limits.items()}
        latency = gate_named("latency").metrics
        judge = GateJudge(latency, budgets, alpha_pass=0.01, alpha_fail=alpha, planned=80)
        for _ in range(80):
            judge.update(
                {
                    name: float(generator.choice([-0.1, 0.1]))
                    if level is None
                    else float(generator.random() / level)
                    for name, level in quantiles.items()
                }
            )
        rows = judge.judgements(exhausted=True)
        failed += any(row.verdict is Verdict.FAIL for row in rows)
        alone += any(row.details["p_fail"] <= alpha for row in rows)
    assert len(names) >= 19
    assert failed <= stats.binom.isf(1e-6, trials, alpha) < alone  # without sharing it would fail


def test_a_certain_failure_takes_no_part_of_the_error_rate() -> None:
    """kl_max decides without chance: it neither needs nor costs a share of alpha_fail."""
    judge = quality_judge(kl_max=1.0, perplexity_ratio=1.0)
    for _ in range(9):  # E = 115 at 9 of 9: enough for 1/100, not for 2/100
        judge.update({"kl_max": 0.5, "perplexity_ratio": 0.1})
    rows = judge.judgements(exhausted=False)
    assert of(rows, "perplexity_ratio").verdict is Verdict.FAIL


# Resuming.


def test_replaying_gives_the_same_bits() -> None:
    generator = np.random.default_rng(4)
    documents = [document(generator, 1.5) for _ in range(40)]
    journal = [json.loads(json.dumps(row)) for row in documents[:17]]
    whole, resumed = (quality_judge(64, kl_max=5.0, **LIMITS) for _ in range(2))
    for row in documents:
        whole.update(row, False, 128)
    for row in [*journal, *documents[17:]]:
        resumed.update(row, False, 128)
    assert whole.state() == resumed.state()
    assert whole.judgements(exhausted=True) == resumed.judgements(exhausted=True)
    resumed.update(documents[0], False, 128)
    assert whole.state() != resumed.state()


# What is refused.


def test_bad_arguments_are_named() -> None:
    judged, kl = gate_named("quality").metrics, metrics()["kl_mean"]
    rates = {"alpha_pass": 0.01, "alpha_fail": 0.01}
    with pytest.raises(ValueError, match="planned 0"):
        GateJudge(judged, {}, **rates, planned=0)
    with pytest.raises(ValueError, match="alpha_fail"):
        GateJudge(judged, {}, alpha_pass=0.01, alpha_fail=0.5, planned=3)
    with pytest.raises(ValueError, match="kl_mean"):
        GateJudge(gate_named("latency").metrics, {"kl_mean": Budget(kl, 1.0)}, **rates, planned=3)
    relative = Budget(metrics()["weight_bytes"], 0.3, relative=True)
    with pytest.raises(ValueError, match=r"0\.3x"):
        GateJudge(gate_named("memory").metrics, {"weight_bytes": relative}, **rates, planned=3)


def test_memory_readings() -> None:
    memory = gate_named("memory").metrics
    budgets = {
        name: Budget(metrics()[name], limit)
        for name, limit in {
            "weight_bytes": 100.0,
            "buffer_bytes": 10.0,
            "kv_prediction_error": 0.0,
        }.items()
    }
    judge = GateJudge(memory, budgets, alpha_pass=0.01, alpha_fail=0.01, planned=2)
    judge.update({"weight_bytes": 90, "buffer_bytes": 9, "kv_prediction_error": 4})
    assert not judge.decided
    judge.update({"weight_bytes": 90, "buffer_bytes": 8, "kv_prediction_error": 4})
    rows = judge.judgements(exhausted=True)
    assert of(rows, "weight_bytes").verdict is Verdict.PASS
    assert of(rows, "buffer_bytes").verdict is Verdict.INCONCLUSIVE
    assert "differ" in of(rows, "buffer_bytes").reason
    assert of(rows, "kv_prediction_error").verdict is Verdict.FAIL
    assert of(rows, "kv_prediction_error").reason == "4 B breaks ≤ 0 B"


def test_the_judge_imports_nothing_heavy() -> None:
    program = (
        "import sys, pytest_infopt.judge.gate_judge, pytest_infopt.judge.planning;"
        "print([name for name in ('torch', 'numpy', 'scipy', 'pytest_infopt.measure')"
        " if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
