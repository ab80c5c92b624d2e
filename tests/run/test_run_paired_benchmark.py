"""`infopt_benchmark` on a clock that only the timed callables move."""

from __future__ import annotations

import pytest

# Both take what a machine adds, which drifts; the candidate takes `factor` times the reference's.
TEST = """
import pytest

class Clock:
    now = 0.0
    calls = 0

    def __call__(self):
        Clock.now += 1e-9  # a timer's own step, which pytest-benchmark looks for
        return Clock.now

    @classmethod
    def work(cls, seconds):
        def run():
            cls.calls += 1
            cls.now += seconds * (1 + cls.calls / 50 + 0.3 * (cls.calls % 7 == 0))
        return run

@pytest.mark.benchmark(timer=Clock())
def test_pace(infopt_benchmark):
    rows = infopt_benchmark(Clock.work({factor}), Clock.work(1.0), at_most=1.05, rounds={rounds})
    assert [row.metric for row in rows] == ["time_ratio", "time_mean_ratio"]
    assert all(row.verdict == "PASS" and row.units <= {rounds} for row in rows)
"""


@pytest.fixture(autouse=True)
def as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-benchmark times nothing in a worker of pytest-xdist; the runs in here are none."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.mark.parametrize(
    ("factor", "rounds", "outcome"),
    [
        (1.0, 120, {"passed": 1}),
        (1.3, 120, {"failed": 1}),
        (1.0, 5, {"skipped": 1}),
    ],
)
def test_pairs_decide(
    pytester: pytest.Pytester, factor: float, rounds: int, outcome: dict[str, int]
) -> None:
    pytester.makepyfile(TEST.replace("{factor}", str(factor)).replace("{rounds}", str(rounds)))
    run = pytester.runpytest_inprocess(
        "-p", "no:cacheprovider", "-rs", "--benchmark-columns=rounds"
    )
    run.assert_outcomes(**outcome)
    if factor > 1:
        run.stdout.fnmatch_lines(["*time_ratio 1.*FAIL*breaks*"])
    if rounds == 5:
        run.stdout.fnmatch_lines(["*time_ratio*INCONCLUSIVE*5 pairs do not*"])


def test_the_order_is_drawn_by_a_coin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        order = []

        def test_pace(infopt_benchmark):
            try:
                infopt_benchmark(lambda: order.append("c"), lambda: order.append("r"),
                                 at_most=100, rounds=200, warmup_rounds=0)
            finally:
                pairs = list(zip(order[::2], order[1::2]))
                assert all(set(pair) == {"c", "r"} for pair in pairs)
                assert len(pairs) == 200
                assert 50 < sum(pair == ("r", "c") for pair in pairs) < 150
        """
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_without_timing_there_is_no_verdict(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TEST.replace("{factor}", "1.0").replace("{rounds}", "9"))
    run = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--benchmark-disable")
    run.assert_outcomes(skipped=1)


def test_a_limit_that_equal_callables_would_break_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_pace(infopt_benchmark):\n"
        "    infopt_benchmark(lambda: 0, lambda: 0, at_most=1.0)\n"
    )
    run = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    run.stdout.fnmatch_lines(["*ValueError: at_most is 1.0*"])
