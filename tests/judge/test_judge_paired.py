"""Rule PAIRED: exact tails, promises under simulation, clusters, and what intervals mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

from pytest_infopt.gates.registry import metrics
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.judge.paired import (
    BETS,
    EARLY,
    Outcome,
    PairedTest,
    needed_items,
    told_difference,
)
from pytest_infopt.judge.planning import fewest_to_pass
from pytest_infopt.judge.trinomial import _score, loss_p_value
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.results.verdict import Verdict

LOSS = metrics()["task_accuracy_loss"]
KEPT = metrics()["task_accuracy_kept"]
ALPHA = 0.01
LOST, GAINED, BOTH, NEITHER = (
    float(each) for each in (Outcome.LOST, Outcome.GAINED, Outcome.BOTH_RIGHT, Outcome.BOTH_WRONG)
)

small_counts = st.integers(1, 25).flatmap(
    lambda n: st.integers(0, n).flatmap(
        lambda lost: st.tuples(st.just(n), st.just(lost), st.integers(0, n - lost))
    )
)
margins = st.sampled_from([-0.2, -0.05, 0.01, 0.02, 0.05, 0.3])


def fed(units: Sequence[Sequence[float]], limit: float | None, metric=LOSS, planned: int = 0):
    test = PairedTest(metric, limit, planned or len(units))
    for unit in units:
        test.update(list(unit))
    return test


def items(both: int = 0, lost: int = 0, gained: int = 0, neither: int = 0) -> list[list[float]]:
    """Single items, mixed."""
    outcomes = [BOTH] * both + [LOST] * lost + [GAINED] * gained + [NEITHER] * neither
    order = np.random.default_rng(0).permutation(len(outcomes))
    return [[outcomes[index]] for index in order]


# The exact test.


@settings(deadline=None)
@given(counts=small_counts, margin=margins)
def test_the_statistic_is_tangos(counts: tuple[int, int, int], margin: float) -> None:
    """Its variance is that of the likelihood's maximum where the loss is the margin."""
    n, lost, gained = counts

    def surprise(discordance: float) -> float:
        rates = (discordance + margin) / 2, (discordance - margin) / 2, 1 - discordance
        seen = lost, gained, n - lost - gained
        return -sum(k * math.log(max(p, 1e-300)) for k, p in zip(seen, rates, strict=True) if k)

    ends = (abs(margin), 1.0)
    found = optimize.minimize_scalar(
        surprise, bounds=ends, method="bounded", options={"xatol": 1e-12}
    )
    discordance = min((*ends, found.x), key=surprise)
    variance = n * (discordance - margin**2)
    expected = (lost - gained - n * margin) / math.sqrt(variance)
    score = float(_score(np.float64(lost), np.float64(gained), n, margin))
    assert score == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(deadline=None, max_examples=15)
@given(
    n=st.integers(2, 20),
    margin=margins,
    discordance=st.floats(0.0, 1.0),
    alpha=st.sampled_from([0.005, 0.05]),
)
def test_no_nuisance_makes_the_exact_test_err_more_often(
    n: int, margin: float, discordance: float, alpha: float
) -> None:
    """Summed over every outcome, by another multinomial than its own."""
    discordance = max(discordance, abs(margin))
    rates = [(discordance + margin) / 2, (discordance - margin) / 2, 1 - discordance]
    outcomes = [(a, b) for a in range(n + 1) for b in range(n + 1 - a)]
    probabilities = stats.multinomial.pmf([(a, b, n - a - b) for a, b in outcomes], n, rates)
    rejected = [loss_p_value(a, b, n, margin) <= alpha for a, b in outcomes]
    # The nuisance is searched at 25 places, between which the tail rises by less than a tenth.
    assert probabilities[np.array(rejected)].sum() <= 1.1 * alpha


def test_without_a_flip_the_interval_has_a_width() -> None:
    """A z interval has none, and would pass at once."""
    for count in (10, 30, 100, 200):
        judged = fed(items(both=count), 0.02)
        assert judged.p_pass > ALPHA
        _, high = judged.interval(2 * ALPHA) or (0, 0)
        # Whatever test it is: a true loss of ln(1/α)/n leaves n items without a flip that often.
        assert high >= 0.8 * -math.expm1(math.log(ALPHA) / count)


@pytest.mark.parametrize("count", [30, 300, 1319, 5000])
def test_without_a_flip_nothing_is_lost(count: int) -> None:
    """However many items: the discordance's interval may then end below the limit."""
    judged = fed(items(both=count), 0.02)
    assert judged.p_fail == 1
    assert (judged.p_pass <= ALPHA) is (count >= 300)
    assert fed(items(both=count - 20, lost=20), 0.02).p_pass > 0.5 or count > 1000


@pytest.mark.parametrize("limit", [0.02, 0.05])
def test_the_plan_knows_the_fewest_items(limit: float) -> None:
    fewest = fewest_to_pass(Budget(LOSS, limit), ALPHA)
    assert (
        fed(items(both=fewest), limit).p_pass <= ALPHA < fed(items(both=fewest - 1), limit).p_pass
    )
    # Below it, a candidate whose true loss is the limit would pass too often.
    assert (1 - limit) ** fewest <= (1 - EARLY) * ALPHA


@pytest.mark.parametrize(("lost", "gained"), [(-1, 0), (0, -1), (6, 5)])
def test_counts_that_are_none(lost: int, gained: int) -> None:
    with pytest.raises(ValueError, match="at most the items together"):
        loss_p_value(lost, gained, 10, 0.02)


# Promises, simulated.


class Sessions:
    """Verdicts of many sessions on independent items of one truth, by `PairedTest`'s own parts:
    bets on every item, vectorised, and the exact test at the end."""

    def __init__(
        self, items: int, discordance: float, loss: float, limit: float, trials: int, seed: int = 0
    ) -> None:
        draws = np.random.default_rng(seed).random((trials, items))
        lost = draws < (discordance + loss) / 2
        gained = ~lost & (draws < discordance)
        d = lost.astype(float) - gained
        keeps, breaks = ((limit - d) / (1 - limit), (d - limit) / (1 + limit))
        pass_at, fail_at = self._crossed(keeps), self._crossed(breaks)
        self.passed = pass_at < fail_at
        self.failed = fail_at < np.inf
        self.failed &= ~self.passed
        self.used = np.minimum(np.minimum(pass_at, fail_at), items)
        for index in np.flatnonzero(~self.passed & ~self.failed):
            counts = int(lost[index].sum()), int(gained[index].sum())
            self.failed[index] = loss_p_value(*counts[::-1], items, -limit) <= (1 - EARLY) * ALPHA
            below = loss_p_value(*counts, items, limit) <= (1 - EARLY) * ALPHA
            self.passed[index] = below and not self.failed[index]

    @staticmethod
    def _crossed(gains: NDArray[np.float64]) -> NDArray[np.float64]:
        wealth = sum(np.exp(np.log1p(bet * gains).cumsum(1)) for bet in BETS) / len(BETS)
        crossed = wealth >= 1 / (EARLY * ALPHA)
        return np.where(crossed.any(1), crossed.argmax(1) + 1.0, np.inf)


def assert_at_most(rate: float, events: NDArray[np.bool_]) -> None:
    """A binomial test at .1 %: more than that refutes the promise."""
    count = int(events.sum())
    assert stats.binomtest(count, len(events), rate, alternative="greater").pvalue > 0.001, count


def assert_at_least(rate: float, events: NDArray[np.bool_]) -> None:
    count = int(events.sum())
    assert stats.binomtest(count, len(events), rate, alternative="less").pvalue > 0.001, count


AT_THE_LIMIT = [
    (items, discordance, limit)
    for items in (30, 100, 300, 1319)
    for discordance in (0.02, 0.06, 0.2)
    for limit in (0.02, 0.05)
    if discordance >= limit
]


@pytest.mark.parametrize(
    "trials", [400, pytest.param(4000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_verdicts_at_the_limit_are_as_rare_as_promised(trials: int) -> None:
    for count, discordance, limit in AT_THE_LIMIT:
        if trials < 1000 and (discordance > 0.1 or count == 1319):
            continue  # takes seconds
        many_flips = count * discordance > 100  # and as many different ones: each takes its tail
        found = Sessions(count, discordance, limit, limit, trials // 8 if many_flips else trials)
        assert_at_most(ALPHA, found.passed)
        assert_at_most(ALPHA, found.failed)


@pytest.mark.parametrize("count", [10, 20, 30])
def test_few_items_do_not_hide_five_points(count: int) -> None:
    """A t interval passes 60 % of such sessions at 10 items and 21 % at 30 (`nel gate`)."""
    for discordance in (0.05, 0.08, 0.15):
        assert_at_most(ALPHA, Sessions(count, discordance, 0.05, 0.02, 3000).passed)


@pytest.mark.parametrize(
    "trials", [150, pytest.param(4000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_equal_models_are_decided_as_often_as_promised(trials: int) -> None:
    for discordance, decided in ((0.06, 0.65), (0.02, 0.98)):
        found = Sessions(1319, discordance, 0.0, 0.02, trials)
        assert_at_most(ALPHA, found.failed)
        assert_at_least(decided, found.passed | found.failed)


@pytest.mark.parametrize("discordance", [0.01, 0.06, 0.3])
def test_what_so_many_items_tell_takes_so_many(discordance: float) -> None:
    for difference in (0.005, 0.02, 0.1):
        count = needed_items(discordance, difference, ALPHA)
        assert told_difference(discordance, count, ALPHA) == pytest.approx(difference, rel=0.02)


@pytest.mark.slow
def test_the_announced_number_of_items_decides_nineteen_of_twenty() -> None:
    for discordance, limit in ((0.06, 0.02), (0.02, 0.02), (0.06, 0.05)):
        count = needed_items(discordance, limit, ALPHA)
        passed = Sessions(count, discordance, 0.0, limit, 1000).passed
        assert 0.93 <= passed.mean() <= 0.99


def test_the_simulation_is_the_rules_own() -> None:
    """`Sessions` and `PairedTest` agree on single sessions."""
    for seed in range(6):
        draws = np.random.default_rng(seed).random((1, 400))[0]
        outcomes = [[LOST] if u < 0.035 else [GAINED] if u < 0.04 else [BOTH] for u in draws]
        session = Sessions(400, 0.04, 0.03, 0.02, 1, seed)
        test, verdict, used = PairedTest(LOSS, 0.02, 400), "", 0
        for outcome in outcomes:
            test.update(outcome)
            used += 1
            if min(test.p_pass, test.p_fail) <= ALPHA:
                verdict = "FAIL" if test.p_fail <= ALPHA else "PASS"
                break
        told = "PASS" if session.passed[0] else "FAIL" if session.failed[0] else ""
        assert (verdict, used) == (told, session.used[0])


# Units of several items.


def passages(
    generator: np.random.Generator, units: int, size: int, loss: float, rest: float
) -> list[list[float]]:
    """Passages whose items stand and fall together, of one or of ``size`` items each; a share
    ``rest`` of the passages flips for the better and as many more for the worse."""
    found = []
    for _ in range(units):
        count = size if generator.random() < 0.5 else 1
        draw = generator.random()
        outcome = LOST if draw < loss + rest else GAINED if draw < loss + 2 * rest else BOTH
        found.append([outcome] * count + [float(Outcome.NO_ITEM)] * (size - count))
    return found


@pytest.mark.parametrize(
    ("units", "rest", "trials"),
    [(60, 0.0, 150), (150, 0.05, 80)]
    + [pytest.param(u, r, 2000, marks=pytest.mark.slow) for u in (60, 150) for r in (0.0, 0.05)],
)
def test_items_of_a_passage_do_not_count_as_independent(
    units: int, rest: float, trials: int
) -> None:
    generator, passed, failed = np.random.default_rng(units), [], []
    for _ in range(trials):
        test = fed(passages(generator, units, 8, 0.1, rest), 0.1)
        passed.append(test.p_pass <= ALPHA)
        failed.append(test.p_fail <= ALPHA)
    assert_at_most(ALPHA, np.array(passed))
    assert_at_most(ALPHA, np.array(failed))


def test_passages_of_one_item_are_items() -> None:
    single = items(both=300, lost=8, gained=6, neither=100)
    assert fed(single, 0.02).state() == fed(single, 0.02).state()
    padded = [[*unit, float(Outcome.NO_ITEM)] for unit in single]
    alone, within = fed(single, 0.02), fed(padded, 0.02)
    assert (alone.n, alone.estimate) == (within.n, within.estimate)
    assert within.p_pass >= alone.p_pass  # bets are half as high


# What is kept of the reference's accuracy.


def test_a_relative_margin_is_judged_on_a_bound() -> None:
    """The point estimate keeps 96 %; so few items do not show that it keeps 95 %."""
    few = fed(items(both=96, lost=4, neither=100), 0.95, KEPT)
    assert few.estimate == 0.96
    assert few.p_pass > ALPHA
    assert few.p_fail > ALPHA
    many = fed(items(both=2950, lost=25, gained=15, neither=1000), 0.95, KEPT)
    assert many.p_pass <= ALPHA
    low, high = many.interval(2 * ALPHA) or (0, 0)
    assert 0.95 < low < many.estimate < high


@pytest.mark.parametrize(
    "trials", [40, pytest.param(500, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_relative_verdicts_at_the_limit_are_rare(trials: int) -> None:
    """The reference has 60 %, the candidate 95 % of that."""
    generator, passed, failed = np.random.default_rng(5), [], []
    rates = [0.55, 0.05, 0.02, 0.38]  # both, lost, gained, neither: (.55 + .02) / .6 = .95
    for _ in range(trials):
        both, lost, gained, neither = generator.multinomial(600, rates)
        test = fed(items(both, lost, gained, neither), 0.95, KEPT)
        passed.append(test.p_pass <= ALPHA)
        failed.append(test.p_fail <= ALPHA)
    assert_at_most(ALPHA, np.array(passed))
    assert_at_most(ALPHA, np.array(failed))


def test_nothing_right_is_nothing_lost() -> None:
    assert fed(items(neither=5), 0.9, KEPT).estimate == 1
    assert fed(items(neither=5, gained=1), 0.9, KEPT).estimate == math.inf


# The gate's judge.


def judge(units: list[list[float]], planned: int, limit: float = 0.02) -> GateJudge:
    found = GateJudge(
        [LOSS],
        {LOSS.name: Budget(LOSS, limit)},
        alpha_pass=ALPHA,
        alpha_fail=ALPHA,
        planned=planned,
    )
    for unit in units:
        if not found.decided:
            found.update({LOSS.name: unit})
    return found


def test_the_exact_test_waits_for_the_last_item() -> None:
    units = items(both=280)
    assert judge(units, 281).judgements(True)[0].verdict is Verdict.INCONCLUSIVE
    assert judge(units, 280).judgements(True)[0].verdict is Verdict.PASS


def test_a_large_loss_ends_early() -> None:
    (judgement,) = judge(items(both=700, lost=300), 1000).judgements(True)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.units < 100
    assert judgement.interval is not None
    assert judgement.interval[0] > 0.02
    assert judgement.details["lost"] > 0


def test_more_items_are_asked_for() -> None:
    (judgement,) = judge(items(both=390, lost=5, gained=5), 400).judgements(True)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.needed is not None
    more = 400 + judgement.needed
    flips = round(5 * more / 400)
    (later,) = judge(items(more - 2 * flips, flips, flips), more).judgements(True)
    assert later.verdict is Verdict.PASS


@settings(deadline=None, max_examples=10)
@given(
    counts=st.tuples(*[st.integers(0, 60)] * 4).filter(any),
    metric=st.sampled_from([LOSS, KEPT]),
    limit=st.sampled_from([0.02, 0.3, 0.9]),
    complete=st.booleans(),
)
def test_the_limit_lies_outside_the_interval_where_it_is_decided(
    counts: tuple[int, int, int, int], metric, limit: float, complete: bool
) -> None:
    units = items(*counts)
    test = fed(units, limit, metric, len(units) + (not complete))
    low, high = test.interval(2 * ALPHA) or (0, 0)
    bad_side, good_side = (high, low) if metric is KEPT else (low, high)
    step = 2e-5  # of the search
    kept = good_side > limit + step if metric is KEPT else good_side < limit - step
    broken = bad_side < limit - step if metric is KEPT else bad_side > limit + step
    assert not kept or test.p_pass <= ALPHA
    assert not broken or test.p_fail <= ALPHA
    assert low - step <= test.estimate <= high + step or not math.isfinite(test.estimate)


@pytest.mark.parametrize("value", [[5.0], [0.5], [4.0], [-1.0]])
def test_what_is_no_outcome_is_refused(value: list[float]) -> None:
    with pytest.raises(ValueError, match="list of outcomes"):
        PairedTest(LOSS, 0.02, 1).update(value)


def test_units_have_one_length() -> None:
    with pytest.raises(ValueError, match="fill the smaller ones up"):
        fed([[BOTH, BOTH], [BOTH]], 0.02)
