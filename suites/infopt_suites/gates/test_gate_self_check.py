"""Self-check: can this runner be trusted to time, and to notice?

The reference is compared with itself, and with itself made slower, by the procedure that judges
candidates. It costs seconds, runs before them, and decides whether their latency counts.
PYTEST_DONT_REWRITE
"""

from dataclasses import replace

import pytest

from pytest_infopt.metrics.metric import Gate, metrics_of
from pytest_infopt.results.verdict import Verdict
from pytest_infopt.run.gate_run import GateRun

pytestmark = pytest.mark.infopt_gate("self-check")


def test_self_check(infopt_gate: GateRun) -> None:
    """The reference against itself must not FAIL; slowed by twice the margin it must not PASS.

    Where either happens, the machine's noise depends on which model runs: power capping, another
    job on one core, a warm-up too short. Latency verdicts of this session are then INCONCLUSIVE.
    """
    seconds = infopt_gate.release.statistics.budget_seconds / 2
    metrics = metrics_of(Gate.LATENCY)
    itself = infopt_gate.time_pairs("itself", seconds, metrics)
    infopt_gate.bench.slow_candidate(1.0 + 2.0 * tightest_margin(infopt_gate))
    slowed = infopt_gate.time_pairs("slowed", seconds, metrics)
    infopt_gate.session.close_bench()  # the next gate must not meet a slowed reference
    judged = [j for j in slowed if j.verdict is not None]
    infopt_gate.details["slowed"] = {j.metric: [j.verdict, j.value] for j in judged}
    false_alarms = [j.metric for j in itself if j.verdict is Verdict.FAIL]
    missed = [j.metric for j in slowed if j.verdict is Verdict.PASS]
    if false_alarms or missed:
        infopt_gate.fault = (
            f"this runner cannot be trusted to time: false alarms on {false_alarms or 'nothing'}, "
            f"a planted slowdown passed on {missed or 'nothing'}; latency is INCONCLUSIVE here"
        )
        infopt_gate.session.distrust_timing(infopt_gate.fault)
    # Undecided is no false alarm: what the self-check asks of its first half is not to FAIL.
    infopt_gate.judgements = [
        replace(j, verdict=Verdict.PASS, reason="not FAIL against itself")
        if j.verdict is Verdict.INCONCLUSIVE
        else j
        for j in itself
    ]
    infopt_gate.conclude()


def tightest_margin(gate: GateRun) -> float:
    """The smallest allowed slowdown: 0.05 where the tightest ratio is 1.05."""
    return min(budget.limit for budget in gate.budgets.values()) - 1.0
