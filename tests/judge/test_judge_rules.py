"""One test per rule: estimates, intervals, error rates at the limit, and stated corner cases."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.measurement import sorted_quantile
from scipy import stats

from pytest_infopt.gates.registry import metrics
from pytest_infopt.judge.dependence import dependence_length
from pytest_infopt.judge.exceedance import ExceedanceTest
from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.judge.mean import MeanTest
from pytest_infopt.judge.planning import fewest_documents, fewest_to_pass
from pytest_infopt.judge.protocol import MetricTest
from pytest_infopt.judge.rules import fails_by_chance, make_test
from pytest_infopt.judge.sign import SignTest
from pytest_infopt.judge.worst import ExactTest, WorstTest
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.metrics.metric import Metric, Rule, Unit
from pytest_infopt.results.verdict import Verdict

KL = metrics()["kl_mean"]
TOP1 = metrics()["top1_agreement"]
RMS = metrics()["true_probability_rms"]
RATIO = metrics()["ttft_ratio"]
TTFT_P95 = metrics()["ttft_p95"]
KL_P99 = metrics()["kl_p99"]


def at_most(rate: float, trials: int) -> int:
    """More such events in ``trials`` happen by chance with probability below 1e-6."""
    return int(stats.binom.isf(1e-6, trials, rate))


def fed(test: MetricTest, values: object) -> MetricTest:
    for value in values:  # type: ignore[attr-defined]  # any iterable of values
        test.update(value)
    return test


# Planning: the figures of STATISTICS 4 follow from the bets.


@pytest.mark.parametrize(
    ("name", "limit", "fewest"),
    [
        ("kl_mean", 0.05, 25),
        ("kl_mean", 0.0, 1),
        ("top1_agreement", 0.99, 14),
        ("top1_agreement", 1.0, 1),
        ("perplexity_ratio", 1.01, 9),
        ("ttft_ratio", 1.05, 9),
        ("ttft_p95", 0.2, 126),
        ("ttft_p99", 0.2, 645),
        ("kl_document_p90", 0.2, 62),
        ("kl_p99", 1.0, 25),
        ("weight_bytes", 100, 2),
        ("sqnr_db", 40, 1),
    ],
)
def test_fewest_to_pass(name: str, limit: float, fewest: int) -> None:
    assert fewest_to_pass(Budget(metrics()[name], limit), 0.01) == fewest
    assert fewest_documents(0.01) == 25


@pytest.mark.parametrize("tokens", [1, 16, 200, 512])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
@pytest.mark.parametrize(
    ("name", "limit", "flawless"),
    [
        ("kl_mean", 0.05, 0.0),
        ("top1_agreement", 0.97, 1.0),
        ("top1_agreement", 0.5, 1.0),  # 3m is above 1 here
        ("true_probability_rms", 0.6, 0.0),
        ("perplexity_ratio", 1.01, -1.0),
        ("ttft_p90", 0.2, 0.1),
        ("ttft_p99", 0.2, 0.1),
        ("itl_p95", 0.2, [0.1]),
        ("kl_p50", 0.2, [0.1]),
        ("kl_p99", 0.2, [0.1]),
        ("top1_agreement", 0.99, 1.0),
        ("semantic_hit_precision", 0.99, 1.0),
    ],
)
def test_flawless_units_pass_exactly_when_planned(
    name: str, limit: float, flawless: float | list[float], alpha: float, tokens: int
) -> None:
    """The plan's number is the judge's own: documents of few tokens prove less each."""
    metric = metrics()[name]
    budget = Budget(metric, limit)
    fewest = fewest_to_pass(budget, alpha, tokens)
    value = flawless * tokens if isinstance(flawless, list) else flawless
    for units, verdict in ((fewest - 1, Verdict.INCONCLUSIVE), (fewest, Verdict.PASS)):
        if not units:
            continue
        judge = GateJudge(
            [metric], {name: budget}, alpha_pass=alpha, alpha_fail=0.01, planned=units
        )
        for _ in range(units):
            judge.update({name: value}, weight=tokens)
        assert judge.judgements(exhausted=True)[0].verdict is verdict


# Rule MEAN.


def test_shares_are_judged_on_what_is_missing() -> None:
    test = fed(make_test(TOP1, 0.95, 100), [0.99] * 40)
    assert test.estimate == pytest.approx(0.99, abs=40 * np.finfo(float).eps)
    assert test.p_pass <= 0.01 < test.p_fail
    low, high = test.interval(0.02)
    assert 0.95 < low < 0.99 < high <= 1


def test_a_metric_of_power_two_is_judged_on_its_square() -> None:
    """The root of a mean square above the limit, although most documents lie below it."""
    squares = [0.0] * 3 + [0.04]  # RMS 0.1
    below, above = make_test(RMS, 0.2, 400), make_test(RMS, 0.05, 400)
    for _ in range(60):
        fed(below, squares)
        fed(above, squares)
    assert below.estimate == pytest.approx(0.1, rel=1e-12)
    assert below.p_pass <= 0.01
    assert above.p_fail <= 0.01
    low, high = below.interval(0.02)
    assert low < 0.1 < high < 0.2


@pytest.mark.parametrize(("metric", "limit", "flawless"), [(KL, 0.0, 0.0), (TOP1, 1.0, 1.0)])
def test_a_limit_that_leaves_no_room(metric: Metric, limit: float, flawless: float) -> None:
    test = make_test(metric, limit, 3)
    fed(test, [flawless] * 2)
    assert (test.p_pass, test.p_fail, test.needed(0.01, 0.01)) == (1, 1, 1)
    test.update(flawless)
    assert (test.p_pass, test.p_fail) == (0, 1)
    test.update(0.5)
    assert (test.p_pass, test.p_fail) == (1, 0)


def test_rounding_below_zero_counts_as_zero_and_nonsense_is_refused() -> None:
    exact, rounded = make_test(KL, 0.05, 30), make_test(KL, 0.05, 30)
    fed(exact, [0.0] * 30)
    fed(rounded, [-1e-9] * 30)
    assert exact.state() == rounded.state()
    with pytest.raises(ValueError, match="out of the metric's range"):
        rounded.update(-1.0)


@pytest.mark.parametrize("value", [math.nan, [], [1.0, math.nan]])
def test_no_number_is_refused(value: float | list[float]) -> None:
    with pytest.raises(ValueError, match="NaN or nothing"):
        make_test(KL_P99, 1.0, 3).update(value)


def test_a_rare_disaster_is_the_tails_and_not_the_means() -> None:
    """6 % of documents at 5.5 times the limit, the rest at zero: a mean of a third of it."""
    generator = np.random.default_rng(0)
    mean, p99 = make_test(KL, 1.0, 1000), make_test(metrics()["kl_document_p99"], 5.0, 1000)
    for bad in generator.permutation(np.arange(400) < 24):
        for test in (mean, p99):
            test.update(5.5 if bad else 0.0)
    assert mean.estimate == pytest.approx(0.33)
    assert (mean.p_pass <= 0.01, mean.p_fail) == (True, 1.0)
    assert p99.p_fail <= 0.01
    assert mean.details()["share_beyond_clip"] == p99.details()["share_beyond"] == 24 / 400


@pytest.mark.parametrize(("every", "times"), [(100, 100), (200, 100), (50, 200)])
def test_the_clipped_mean_at_its_limit_is_rarely_decided(every: int, times: float) -> None:
    """PASS promises the mean of what is counted; a document in so many is so many times worse."""
    trials, generator, passed = 60, np.random.default_rng(every), 0
    common = 1 / (1 + (5 - 1) / every)  # with a rare one counted as 5, the mean is 1
    for _ in range(trials):
        test = make_test(KL, 1.0, 256)
        for rare in generator.random(256) < 1 / every:
            test.update(times if rare else common)
        passed += test.p_pass <= 0.01
    assert passed <= at_most(0.01, trials)


def test_a_pass_says_what_it_promises() -> None:
    budget = Budget(KL, 0.05)
    judge = GateJudge([KL], {"kl_mean": budget}, alpha_pass=0.01, alpha_fail=0.01, planned=30)
    for _ in range(30):
        judge.update({"kl_mean": 0.0})
    (judgement,) = judge.judgements(exhausted=False)
    assert judgement.reason.startswith("keeps ≤ 0.05 nats, mean, each counted up to 0.25 nats (p =")


@pytest.mark.parametrize(
    ("name", "limit", "promise"),
    [
        ("kl_mean", 0.0, ""),
        ("top1_agreement", 0.9, "mean, each counted down to 70 %"),
        ("top1_agreement", 0.5, "mean, each counted down to 0 %"),
        ("true_probability_rms", 0.1, "mean, each counted up to 22.4 %"),
        ("ttft_p95", 0.1, "at most 5 % beyond, dependence as measured"),
        ("ttft_ratio", 1.05, "median"),
        ("weight_bytes", 5, ""),
    ],
)
def test_promises(name: str, limit: float, promise: str) -> None:
    assert make_test(metrics()[name], limit, 9).promise() == promise


@pytest.mark.parametrize(
    ("name", "limit", "shares"),
    [
        ("kl_mean", 0.1, True),
        ("kl_mean", 0.0, False),
        ("ttft_ratio", 1.1, True),
        ("kl_max", 1.0, False),
        ("weight_bytes", 1.0, False),
        ("semantic_hit_precision", 0.9, True),
    ],
)
def test_only_chance_shares_an_error_rate(name: str, limit: float, shares: bool) -> None:
    assert fails_by_chance(Budget(metrics()[name], limit)) is shares


@pytest.mark.parametrize(("tokens", "limit"), [(16, 0.99), (64, 0.99), (512, 0.98)])
def test_short_documents_do_not_pass_at_the_limit(tokens: int, limit: float) -> None:
    """A share made of few tokens is coarse: clipping at 3m alone would pass it nearly always."""
    trials, generator, passed = 150, np.random.default_rng(tokens), 0
    for _ in range(trials):
        test = make_test(TOP1, limit, 256)
        for wrong in generator.binomial(tokens, 1 - limit, 256):
            test.update(1 - wrong / tokens, False, tokens)
        passed += test.p_pass <= 0.01
    assert passed <= at_most(0.02, trials)


def lognormal_documents(mean: float, tau: float, n: int, seed: int) -> list[float]:
    """Document means of STATISTICS 2.6: 512 lognormal tokens of sigma 1.708, document sd tau."""
    generator = np.random.default_rng(seed)
    tokens = np.exp(generator.normal(-(1.708**2) / 2, 1.708, (n, 512))).mean(axis=1)
    return [float(y) for y in mean * tokens * np.exp(generator.normal(-(tau**2) / 2, tau, n))]


def mean_verdicts(truth: float, tau: float, trials: int, n: int = 200) -> tuple[int, int, float]:
    """Sequential gate of a limit 1: passes, failures, mean documents until then."""
    passed = failed = used = 0
    for seed in range(trials):
        test = make_test(KL, 1.0, n)
        for y in lognormal_documents(truth, tau, n, seed):
            test.update(y)
            if min(test.p_pass, test.p_fail) <= 0.01:
                break
        passed += test.p_pass <= 0.01
        failed += test.p_fail <= 0.01
        used += test.units
    return passed, failed, used / trials


@pytest.mark.parametrize(
    ("tau", "trials"),
    [(0.5, 100), (0.8, 100), pytest.param(0.8, 1500, marks=pytest.mark.slow)],
)
def test_lognormal_documents_at_the_limit_are_rarely_decided(tau: float, trials: int) -> None:
    passed, failed, _ = mean_verdicts(1.0, tau, trials)
    assert passed <= at_most(0.01, trials)
    assert failed <= at_most(0.01, trials)


@pytest.mark.parametrize(("truth", "most"), [(0.5, 50), (2.0, 20)])
def test_documents_to_a_verdict(truth: float, most: float) -> None:
    """STATISTICS 6.5, at document sd .5."""
    trials = 40
    passed, failed, used = mean_verdicts(truth, 0.5, trials)
    assert (passed, failed) == ((trials, 0) if truth < 1 else (0, trials))
    assert used <= most


# Rule SIGN.


def test_sign_estimate_is_the_median_ratio() -> None:
    xs = np.random.default_rng(0).normal(0.1, 1, 101)
    test = fed(make_test(RATIO, 1.05, 200), xs)
    assert test.estimate == pytest.approx(math.exp(np.median(xs)))


def test_ties_count_against_both_sides() -> None:
    test = fed(make_test(RATIO, 1.05, 200), [math.log(1.05)] * 100)
    assert (test.p_pass, test.p_fail) == (1, 1)


def test_a_higher_ratio_may_be_the_better_one() -> None:
    speedup = Metric("speedup", Unit.RATIO, Rule.SIGN, "", higher_is_better=True)
    assert fed(make_test(speedup, 1.5, 99), [math.log(2)] * 9).p_pass <= 0.01
    assert fed(make_test(speedup, 1.5, 99), [0.0] * 9).p_fail <= 0.01


def adversarial_noise(n: int) -> dict[str, np.ndarray]:
    """Six shapes of slowdown over call slots 0…2n−1, each built against a fixed order."""
    slot = np.arange(2 * n)
    walk = np.random.default_rng(5).normal(0, 0.2, 2 * n).cumsum()
    return {
        "odd slots slow": 0.3 * (slot % 2),
        "period four": 0.3 * np.isin(slot % 4, (0, 3)),
        "linear drift": slot * 0.05,
        "bursts": 2.0 * (slot % 7 == 0),
        "random walk": walk,
        "heavy tails": np.random.default_rng(6).standard_cauchy(2 * n),
    }


def false_verdicts(order: str, noise: np.ndarray, trials: int) -> int:
    """Runs at the boundary (limit 1, equal models) that ended in any verdict, of ``trials``."""
    n = len(noise) // 2
    generator = np.random.default_rng(9)
    wrong = 0
    for _ in range(trials):
        test = SignTest(RATIO, 1.0)
        for i in range(n):
            first = {"coin": generator.random() < 0.5, "ABAB": True, "ABBA": i % 2 == 0}[order]
            jitter = generator.normal(0, 0.01, 2)
            a, b = noise[2 * i] + jitter[0], noise[2 * i + 1] + jitter[1]
            test.update(a - b if first else b - a)
            if min(test.p_pass, test.p_fail) <= 0.01:
                wrong += 1
                break
    return wrong


@pytest.mark.parametrize("shape", adversarial_noise(4))
def test_random_order_survives_any_noise(shape: str) -> None:
    trials = 60
    wrong = false_verdicts("coin", adversarial_noise(150)[shape], trials)
    assert wrong <= at_most(0.02, trials)  # 1 % on either side


@pytest.mark.parametrize(("order", "shape"), [("ABAB", "odd slots slow"), ("ABBA", "period four")])
def test_fixed_orders_break_under_noise_built_against_them(order: str, shape: str) -> None:
    trials = 20
    assert false_verdicts(order, adversarial_noise(150)[shape], trials) == trials


# Rule EXCEEDANCE.


def test_quantile_is_numpys() -> None:
    generator = np.random.default_rng(2)
    for n in range(1, 201):
        values = np.sort(generator.lognormal(size=n))
        for level in (0.0, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0):
            assert sorted_quantile(list(values), level) == np.quantile(values, level)


def test_single_values_make_a_bernoulli_test() -> None:
    """The p95 service level of STATISTICS 2.5: about 163 requests when none of 200 is late."""
    test = fed(make_test(TTFT_P95, 0.2, 999), [0.1] * 126)
    assert test.p_pass <= 0.01
    late = fed(make_test(TTFT_P95, 0.2, 999), [0.1, 0.3] * 30)
    assert late.p_fail <= 0.01


def test_a_value_at_the_limit_keeps_it() -> None:
    assert fed(make_test(TTFT_P95, 0.2, 999), [0.2] * 126).p_pass <= 0.01


def test_tokens_of_a_document_are_one_unit() -> None:
    """Twelve thousand tokens of twelve documents are twelve documents."""
    test = fed(make_test(KL_P99, 1.0, 99), [[0.1] * 1000] * 12)
    assert (test.n, test.units) == (12_000, 12)
    assert test.p_pass > 0.01


def test_a_list_counts_its_values_whatever_the_unit_weighs() -> None:
    test = make_test(KL_P99, 1.0, 9)
    test.update([2.0, 0.1, 0.1, 0.1], False, 512)
    assert (test.n, test.details()["share_beyond"]) == (4, 0.25)
    mean = make_test(KL, 1.0, 9)
    mean.update(0.1, False, 512)
    assert mean.n == 512


def test_design_effect_shows_the_clustering() -> None:
    generator = np.random.default_rng(4)
    alike, apart = make_test(KL_P99, 1.0, 99), make_test(KL_P99, 1.0, 99)
    for document in range(60):
        alike.update(list(np.where(generator.random(200) < 0.05, 2.0, 0.0)))
        apart.update([2.0 if document % 20 == 0 else 0.0] * 200)
    # A variance of 60 units has a relative sd of √(2/59) = .18: 4 of them.
    assert alike.details()["design_effect"] == pytest.approx(1, abs=0.75)
    assert apart.details()["design_effect"] == pytest.approx(200 * 60 / 59)


@pytest.mark.parametrize(("tokens", "name"), [(64, "kl_p99"), (128, "kl_p999"), (512, "kl_p99")])
def test_quantiles_at_the_limit_do_not_pass(tokens: int, name: str) -> None:
    metric = metrics()[name]
    assert metric.quantile is not None
    trials, generator, passed = 60, np.random.default_rng(8), 0
    for _ in range(trials):
        test = make_test(metric, 1.0, 200)
        for beyond in generator.binomial(tokens, 1 - metric.quantile, 200):
            test.update([2.0] * beyond + [0.5] * (tokens - beyond))
        passed += test.p_pass <= 0.01
    assert passed <= at_most(0.01, trials)


# Rules WORST and EXACT.


@pytest.mark.parametrize(
    ("name", "good", "bad", "limit"), [("kl_max", 1.0, 3.0, 2.0), ("sqnr_db", 41.0, 39.0, 40.0)]
)
def test_worst(name: str, good: float, bad: float, limit: float) -> None:
    test = WorstTest(metrics()[name], limit, 3)
    fed(test, [good, limit])
    assert (test.p_pass, test.p_fail, test.needed(0.01, 0.01)) == (1, 1, 1)
    test.update(good)
    assert (test.p_pass, test.p_fail, test.needed(0.01, 0.01)) == (0, 1, None)
    test.update(bad)
    assert (test.p_pass, test.p_fail) == (1, 0)
    assert (test.estimate, test.details()["worst_unit"]) == (bad, 3)


def test_exact_needs_two_equal_readings() -> None:
    metric = metrics()["weight_bytes"]
    test = ExactTest(metric, 100, planned=2)
    test.update(100)
    assert (test.p_pass, test.p_fail, test.needed(0.01, 0.01)) == (1, 1, 1)
    test.update(100)
    assert (test.p_pass, test.p_fail) == (0, 1)
    assert fed(ExactTest(metric, 99, 2), [100, 100]).p_fail == 0
    differing = fed(ExactTest(metric, 1000, 2), [100, 101])
    assert (differing.p_pass, differing.p_fail, differing.differs) == (1, 1, True)
    assert fed(ExactTest(metric, 100, planned=1), [100]).p_pass == 0


# Intervals, for every statistical rule.


def mean_samples(seed: int, n: int) -> tuple[MetricTest, float]:
    generator = np.random.default_rng(seed)
    return fed(MeanTest(KL, None, n), generator.uniform(0, 2, n)), 1.0


def share_samples(seed: int, n: int) -> tuple[MetricTest, float]:
    generator = np.random.default_rng(seed)
    test = MeanTest(TOP1, None, n)
    for wrong in generator.binomial(200, 0.1, n):
        test.update(1 - wrong / 200, False, 200)
    return test, 0.9


def sign_samples(seed: int, n: int) -> tuple[MetricTest, float]:
    generator = np.random.default_rng(seed)
    return fed(SignTest(RATIO, None), generator.standard_cauchy(n) / 10), 1.0


def quantile_samples(seed: int, n: int) -> tuple[MetricTest, float]:
    generator = np.random.default_rng(seed)
    return fed(
        ExceedanceTest(metrics()["ttft_p50"], None), generator.exponential(size=n)
    ), math.log(2)


SAMPLERS = [mean_samples, share_samples, sign_samples, quantile_samples]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_intervals_cover(sampler: object) -> None:
    trials, missed = 60, 0
    for seed in range(trials):
        test, truth = sampler(seed, 80)  # type: ignore[operator]  # one of SAMPLERS
        low, high = test.interval(0.1)
        missed += not low <= truth <= high
    assert missed <= at_most(0.1, trials)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_intervals_shrink_with_n_and_grow_with_confidence(sampler: object) -> None:
    few, _ = sampler(0, 40)  # type: ignore[operator]  # one of SAMPLERS
    many, _ = sampler(0, 400)  # type: ignore[operator]  # the same
    widths = [np.diff(many.interval(alpha))[0] for alpha in (0.001, 0.01, 0.1, 0.5)]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0]
    assert widths[1] < np.diff(few.interval(0.01))[0]
    low, high = many.interval(0.1)
    assert low <= many.estimate <= high


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.floats(0.3, 3))
def test_the_interval_and_the_verdict_agree(seed: int, n: int, limit: float) -> None:
    """The limit lies above the upper end where PASS was reached at α, below the lower where FAIL
    was."""
    generator = np.random.default_rng(seed)
    xs = [float(x) for x in generator.lognormal(0, 0.4, n)]
    tests: list[tuple[MetricTest, list[float]]] = [
        (MeanTest(KL, limit, n), xs),
        (SignTest(RATIO, limit), [math.log(x) for x in xs]),
        (ExceedanceTest(dataclasses.replace(metrics()["ttft_p50"], serial=False), limit), xs),
    ]
    for test, values in tests:
        fed(test, values)
        ends = test.interval(0.02)
        assert ends is not None
        slack = 1e-9 * limit  # the mean's bisection is that fine, the others are exact
        assert (test.p_pass <= 0.01) == (ends[1] <= limit + slack) or math.isclose(ends[1], limit)
        # "At the limit" is no FAIL, and a quantile or median at the limit keeps it.
        assert (test.p_fail <= 0.01) == (ends[0] > limit) or math.isclose(ends[0], limit)


def test_serial_requests_have_an_interval_once_their_dependence_can_be_measured() -> None:
    generator = np.random.default_rng(0)
    xs = [float(x) for x in generator.lognormal(0, 0.4, 60)]
    few, alike, apart = (make_test(metrics()["ttft_p50"], 9.0, 60) for _ in range(3))
    assert fed(few, xs[:49]).interval(0.02) == (0, math.inf)
    low, high = fed(apart, xs).interval(0.02)
    assert 0 < low < 1 < high < 2
    assert fed(alike, sorted(xs)).interval(0.02)[1] == math.inf


def test_units_that_say_nothing_yet_leave_the_interval_open() -> None:
    assert fed(MeanTest(KL, None, 9), [0.1] * 5).interval(0.02)[1] == math.inf
    assert fed(MeanTest(KL, None, 99), [0.0] * 25).interval(0.02) == (0, 0)
    assert fed(MeanTest(TOP1, None, 9), [1.0] * 3).interval(0.02)[0] < 0.5
    assert fed(SignTest(RATIO, None), [0.1] * 5).interval(0.02) == (0, math.inf)
    assert fed(ExceedanceTest(TTFT_P95, None), [0.1] * 5).interval(0.02)[1] == math.inf


def test_an_infinite_divergence_is_a_failure_with_an_infinite_estimate() -> None:
    test = fed(MeanTest(KL, 0.1, 9), [math.inf, 0.0])
    assert test.p_fail == 0
    assert test.estimate == math.inf
    assert test.interval(0.02) == (math.inf, math.inf)
    assert test.detectable(0.01) is None


# The order of units carries no information where units are exchangeable.


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 4), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_evidence_at_the_end_does_not_depend_on_the_order(ys: list[float], random: object) -> None:
    mixed = list(ys)
    random.shuffle(mixed)  # type: ignore[attr-defined]  # random.Random
    one, two = MeanTest(KL, 1.0, 30), MeanTest(KL, 1.0, 30)
    fed(one, ys)
    fed(two, mixed)
    assert one.estimate == pytest.approx(two.estimate)
    for a, b in ((one._above, two._above), (one._below, two._below)):
        assert a is not None
        assert b is not None
        assert a.log_e == pytest.approx(b.log_e, abs=1e-12 * len(ys))


# Detectable effects.


def test_detectable_effect_shrinks_with_n_and_is_detected_half_the_time() -> None:
    generator = np.random.default_rng(3)
    small, large = (MeanTest(KL, 1.0, 400) for _ in range(2))
    fed(small, generator.uniform(0, 2, 30))
    fed(large, generator.uniform(0, 2, 300))
    few, many = small.detectable(0.01), large.detectable(0.01)
    assert few is not None
    assert many is not None
    assert few > many > 0
    trials, caught = 60, 0
    for _ in range(trials):
        test = fed(MeanTest(KL, 1.0, 400), generator.uniform(0, 2 * (1 + many), 300))
        caught += test.p_fail <= 0.01
    # Half, give or take how well 300 units know their own spread: never rare, never certain.
    assert trials * 0.15 <= caught <= trials * 0.95


def test_detectable_ratio_is_a_shift_of_the_log_ratio() -> None:
    xs = list(np.random.default_rng(1).normal(0, 0.05, 200))
    test = fed(SignTest(RATIO, 1.05), xs)
    excess = test.detectable(0.01)
    assert excess is not None
    shift = math.log(1 + excess / 1.05) + math.log(1.05) - float(np.median(xs))
    # The lower end rests on an order statistic that a tie counts against: one ulp beyond it.
    beyond = fed(SignTest(RATIO, 1.05), [x + shift + 1e-9 for x in xs])
    short = fed(SignTest(RATIO, 1.05), [x + shift - 1e-3 for x in xs])
    assert beyond.p_fail <= 0.01 < short.p_fail


def test_what_no_rule_fits_is_refused() -> None:
    odd = Metric("odd", Unit.NATS, Rule.MEAN, "", higher_is_better=True)
    with pytest.raises(ValueError, match="odd"):
        make_test(odd, 1.0, 3)
    with pytest.raises(ValueError, match="no unit"):
        _ = make_test(KL, 1.0, 3).estimate
    with pytest.raises(ValueError, match="above 0"):
        make_test(RATIO, 0.0, 3)
    with pytest.raises(ValueError, match="quantile"):
        ExceedanceTest(KL, 1.0)


# Rule LOG_MEAN.

MEAN_RATIO = metrics()["tpot_mean_ratio"]


def test_the_log_mean_is_the_published_geometric_mean() -> None:
    xs = np.random.default_rng(0).normal(0.1, 3, 101)
    test = fed(make_test(MEAN_RATIO, 1.05, 200), xs)
    assert test.estimate == pytest.approx(stats.gmean(np.exp(xs)), rel=1e-9)


@pytest.mark.parametrize("shape", adversarial_noise(4))
def test_random_order_keeps_the_log_mean_right_under_any_noise(shape: str) -> None:
    noise, generator, wrong, trials = adversarial_noise(150)[shape], np.random.default_rng(9), 0, 60
    for _ in range(trials):
        test = make_test(MEAN_RATIO, 1.05, 150)
        for i in range(150):
            x = math.log(1.05) + (noise[2 * i] - noise[2 * i + 1]) * generator.choice([-1, 1])
            test.update(float(x))
            if min(test.p_pass, test.p_fail) <= 0.01:
                wrong += 1
                break
    assert wrong <= at_most(0.02, trials)


def test_slow_on_a_part_of_the_requests_passes_the_median_and_fails_the_mean() -> None:
    """Twice as slow on 40 % of the requests."""
    generator = np.random.default_rng(0)
    median, mean = make_test(RATIO, 1.05, 600), make_test(MEAN_RATIO, 1.05, 600)
    for slow in generator.random(600) < 0.4:
        for test in (median, mean):
            test.update(float(generator.normal(math.log(2) if slow else 0.0, 0.02)))
    assert median.p_pass <= 0.01
    assert mean.p_fail <= 0.01 < mean.p_pass
    assert mean.estimate == pytest.approx(2**0.4, rel=0.05)


@pytest.mark.parametrize("limit", [0.5, 1.0, 1.05, 3.0])
@pytest.mark.parametrize("better", [True, False])
def test_the_log_means_interval_ends_where_the_verdict_does(limit: float, better: bool) -> None:
    metric = Metric("m", Unit.RATIO, Rule.LOG_MEAN, "", higher_is_better=better)
    for seed in range(12):
        test = make_test(metric, limit, 200)
        for x in np.random.default_rng(seed).normal(math.log(limit) + 0.04 * (seed - 6), 0.1, 60):
            test.update(float(x))
        low, high = test.interval(0.02)
        below, above = high < limit, low > limit
        decided = (test.p_pass <= 0.01, test.p_fail <= 0.01)
        assert decided == ((above, below) if better else (below, above))


def test_infinite_ratios_count_up_to_the_clip() -> None:
    test = fed(make_test(MEAN_RATIO, 1.05, 200), [math.inf] * 9)
    assert test.p_fail <= 0.01
    assert test.estimate == math.inf
    low, high = test.interval(0.02)
    assert 0 < low <= high == math.inf


# Dependent requests.


@pytest.mark.parametrize(("correlation", "least", "most"), [(0.0, 1, 8), (0.9, 30, 120)])
def test_dependence_is_measured(correlation: float, least: int, most: int) -> None:
    """Three correlation times of a first-order sequence: 3·(1 + ρ) / (1 − ρ) = 57 at .9."""
    noise = np.random.default_rng(1).normal(size=4000)
    values = [0.0]
    for x in noise:
        values.append(correlation * values[-1] + float(x))
    assert least <= dependence_length(values) <= most
    assert dependence_length([math.exp(value) for value in values]) == dependence_length(values)


def test_equal_values_do_not_depend_on_each_other() -> None:
    assert dependence_length([0.2] * 500) == 1


def test_few_dependent_values_are_one() -> None:
    assert dependence_length([float(i) for i in range(60)]) == 60


@pytest.mark.parametrize("correlation", [0.9, 0.99])
def test_dependent_requests_at_the_limit_are_rarely_decided(correlation: float) -> None:
    """STATISTICS 8: PASS in 34 % and 80 % of sessions before dependence was charged."""
    trials, decided = 25, 0
    for seed in range(trials):
        generator = np.random.default_rng(seed)
        x, test = generator.normal(), make_test(TTFT_P95, math.exp(stats.norm.ppf(0.95)), 400)
        for shock in generator.normal(0, math.sqrt(1 - correlation**2), 400):
            x = correlation * x + shock
            test.update(math.exp(x))
        decided += min(test.p_pass, test.p_fail) <= 0.01
    assert decided <= at_most(0.02, trials)


def test_independent_requests_keep_their_power() -> None:
    generator = np.random.default_rng(0)
    test = make_test(TTFT_P95, 2.0, 400)
    fed(test, [float(x) for x in generator.uniform(0, 1, 130)])
    assert test.p_pass <= 0.01
    assert test.details()["share_beyond"] == 0


def test_fewer_than_fifty_serial_requests_decide_nothing() -> None:
    assert fed(make_test(TTFT_P95, 0.2, 400), [1.0] * 49).p_fail == 1
    assert fed(make_test(TTFT_P95, 0.2, 400), [1.0] * 50).p_fail <= 0.01
