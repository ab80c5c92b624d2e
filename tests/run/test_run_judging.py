"""The judge of a collection: shares of an error rate; defaults that few samples cannot decide."""

from collections.abc import Sequence

import pytest

from pytest_infopt.gates.base import GateSpec
from pytest_infopt.gates.registry import gate_named, metrics
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.release import Statistics
from pytest_infopt.results.verdict import Verdict
from pytest_infopt.run.judging import judgements_of, make_judge

QUALITY, LATENCY = gate_named("quality"), gate_named("latency")


def limits(**values: float) -> dict[str, Budget]:
    return {name: Budget(metrics()[name], limit) for name, limit in values.items()}


def judge(
    spec: GateSpec, ours: dict[str, Budget], all_of_them: Sequence[Budget], planned: int = 64
) -> GateJudge:
    found, _ = make_judge(
        spec,
        Statistics(),
        spec.metrics,
        ours,
        all_of_them,
        planned=planned,
        every_metric=False,
    )
    return found


CHANCE = {"kl_mean": 0.1, "top1_agreement": 0.9, "ttft_ratio": 1.1, "tpot_ratio": 1.1}


def test_metrics_that_fail_by_chance_share_the_error_rate_evenly() -> None:
    every = limits(**CHANCE)
    quality = judge(QUALITY, limits(kl_mean=0.1, top1_agreement=0.9), [*every.values()])
    latency = judge(LATENCY, limits(ttft_ratio=1.1, tpot_ratio=1.1), [*every.values()])
    assert quality.alpha_fail == latency.alpha_fail == Statistics().alpha_fail / 2
    one = judge(LATENCY, limits(ttft_ratio=1.1), [*every.values()])
    assert one.alpha_fail == Statistics().alpha_fail / 4


@pytest.mark.parametrize("exact", [{"weight_bytes": 9.0}, {"kl_max": 1.0}, {"kl_reverse_mean": 0}])
def test_limits_that_hold_for_every_value_take_no_part(exact: dict[str, float]) -> None:
    every = limits(**CHANCE, **exact)
    latency = limits(ttft_ratio=1.1, tpot_ratio=1.1)
    assert judge(LATENCY, latency, [*every.values()]).alpha_fail == Statistics().alpha_fail / 2


def test_a_collection_without_chance_needs_no_share() -> None:
    found = judge(QUALITY, limits(kl_max=1.0), [*limits(kl_max=1.0, **CHANCE).values()])
    found.update({"kl_max": 2.0})
    assert found.decided


TAIL = "kl_document_p90"


def measured(documents: int, planned: int, tail: Budget) -> dict[str, tuple[object, str]]:
    """Verdict and reason of flawless documents, of which so many are measured."""
    budgets = {**limits(kl_mean=0.1), TAIL: tail}
    found, estimated = make_judge(
        QUALITY,
        Statistics(),
        QUALITY.metrics,
        budgets,
        budgets.values(),
        planned=planned,
        every_metric=False,
    )
    for _ in range(documents):
        found.update({"kl_mean": 0.0, TAIL: [0.0]})
    rows = {row.metric: (row.verdict, row.reason) for row in judgements_of(found, [])}
    return {name: rows[name] for name in budgets} | {"estimated": (None, " ".join(estimated))}


def test_a_default_that_the_corpus_cannot_decide_is_estimated_and_said_to_be() -> None:
    default = Budget(metrics()[TAIL], 0.5)
    rows = measured(30, 30, default)
    assert rows["kl_mean"][0] is Verdict.PASS
    assert rows[TAIL][0] is None
    assert "only estimated on 30 samples" in rows["estimated"][1]
    assert "takes 62" in rows["estimated"][1]


def test_a_default_for_which_time_is_too_short_is_estimated_and_said_to_be() -> None:
    verdict, reason = measured(61, 200, Budget(metrics()[TAIL], 0.5))[TAIL]
    assert verdict is None
    assert "only estimated on 61 samples" in reason
    assert measured(62, 200, Budget(metrics()[TAIL], 0.5))[TAIL][0] is Verdict.PASS


@pytest.mark.parametrize("origin", ["default for a test", "infopt.toml:3"])
def test_only_a_written_tail_is_waited_for(origin: str) -> None:
    tail = Budget(metrics()[TAIL], 0.5, origin=origin)
    budgets = {**limits(kl_mean=0.1), TAIL: tail}
    found = judge(QUALITY, budgets, budgets.values(), 200)
    while not found.decided:
        found.update({"kl_mean": 0.0, TAIL: [0.0]})
    rows = {row.metric: row for row in judgements_of(found, [])}
    assert rows[TAIL].verdict is (None if tail.is_default else Verdict.PASS)
    assert rows[TAIL].units == (25 if tail.is_default else 62)


def test_a_default_tail_fails_when_it_may_and_is_decided_once_it_counts() -> None:
    budgets = {**limits(kl_mean=1.0), TAIL: Budget(metrics()[TAIL], 0.5)}
    failing, slow = (judge(QUALITY, budgets, budgets.values(), 200) for _ in range(2))
    while not failing.decided:
        failing.update({"kl_mean": 0.9, TAIL: [0.9]})
    assert {row.metric: row.verdict for row in judgements_of(failing, [])}[TAIL] is Verdict.FAIL
    for index in range(70):  # at 62 it counts; three of these are beyond
        slow.update({"kl_mean": 0.0, TAIL: [0.9 * (index % 25 == 0)]})
    assert slow.undecided == [TAIL]


def test_a_default_tail_that_is_alone_is_waited_for() -> None:
    budgets = {TAIL: Budget(metrics()[TAIL], 0.5)}
    found = judge(QUALITY, budgets, budgets.values(), 200)
    for _ in range(61):
        found.update({TAIL: [0.0]})
        assert not found.decided
    found.update({TAIL: [0.0]})
    assert found.decided


def test_a_default_mean_ratio_takes_as_many_pairs_as_an_equal_candidate() -> None:
    default = Budget(metrics()["tpot_mean_ratio"], 1.1)
    few, enough = (judge(LATENCY, {"tpot_mean_ratio": default}, [default], 99) for _ in range(2))
    while not enough.decided:
        enough.update({"tpot_mean_ratio": 0.0})
    rows = {row.metric: row for row in judgements_of(enough, [])}
    pairs = rows["tpot_mean_ratio"].units
    assert rows["tpot_mean_ratio"].verdict is Verdict.PASS
    for _ in range(pairs - 1):
        few.update({"tpot_mean_ratio": 0.0})
    (row,) = (row for row in judgements_of(few, []) if row.metric == "tpot_mean_ratio")
    assert row.verdict is None
    assert f"takes {pairs};" in row.reason


@pytest.mark.parametrize("planned", [30, 200])
def test_a_limit_that_somebody_wrote_is_never_dropped(planned: int) -> None:
    written = Budget(metrics()[TAIL], 0.5, origin="infopt.toml:3")
    assert measured(30, planned, written)[TAIL][0] is Verdict.INCONCLUSIVE


def test_a_tail_that_is_near_its_limit_stays_undecided() -> None:
    default = Budget(metrics()[TAIL], 0.5)
    found = judge(QUALITY, {TAIL: default}, [default], 200)
    for index in range(200):
        found.update({TAIL: [1.0 if index % 10 == 0 else 0.0]})
    (row,) = (row for row in judgements_of(found, []) if row.metric == TAIL)
    assert row.verdict is Verdict.INCONCLUSIVE
