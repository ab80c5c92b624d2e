"""Latency: is the candidate at most so much slower than the reference?

Both models live in one process; each pair of requests is timed in an order drawn by a fair coin,
and the verdict is a sequential sign test on the paired log-ratios.
PYTEST_DONT_REWRITE
"""

import pytest

from pytest_infopt.results.verdict import Verdict
from pytest_infopt.run.gate_run import GateRun, confirmed

pytestmark = pytest.mark.infopt_gate("latency")


def test_latency(infopt_gate: GateRun) -> None:
    """Time to first token, per output token and end to end stay within their budgets.

    A FAIL has to be confirmed by models loaded anew: where they happen to lie in memory costs or
    saves a few percent by itself.
    """
    distrust = infopt_gate.session.timing_distrust()
    if distrust:
        infopt_gate.abstain(distrust)
        return
    seconds = infopt_gate.release.statistics.budget_seconds
    first = infopt_gate.time_pairs("main", seconds)
    if any(judgement.verdict is Verdict.FAIL for judgement in first):
        infopt_gate.bench.restart()
        infopt_gate.judgements = confirmed(first, infopt_gate.time_pairs("confirmation", seconds))
    infopt_gate.conclude()
