"""Self-check: can this runner be trusted to time, and to notice?

The reference is compared with itself, and with itself made slower, by the procedure that judges
candidates. It costs seconds, runs before them, and decides whether their latency counts.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, Verdict

from ..timing import time_pairs

if TYPE_CHECKING:
    from .measure import SelfCheckMeasure

pytestmark = pytest.mark.infopt_gate("self-check")


def test_self_check(infopt_gate: GateRun[SelfCheckMeasure]) -> None:
    """The reference against itself must not FAIL; slowed by twice the margin it must not PASS.

    Where either happens, the machine's noise depends on which model runs: power capping, another
    job on one core, a warm-up too short. Verdicts on time of this session are then INCONCLUSIVE.
    """
    seconds = infopt_gate.seconds / 2
    # Undecided is no false alarm: what the self-check asks of its first half is not to FAIL.
    itself = time_pairs(
        infopt_gate,
        "itself",
        seconds,
        every_metric=True,
        undecided_passes="not FAIL against itself",
    )
    infopt_gate.measure.slow_candidate(1.0 + 2.0 * tightest_margin(infopt_gate))
    slowed = time_pairs(infopt_gate, "slowed", seconds, every_metric=True)
    judged = [j for j in slowed if j.verdict is not None]
    infopt_gate.details["slowed"] = {j.metric: [j.verdict, j.value] for j in judged}
    false_alarms = [j.metric for j in itself if j.verdict is Verdict.FAIL]
    missed = [j.metric for j in slowed if j.verdict is Verdict.PASS]
    if false_alarms or missed:
        infopt_gate.fault = (
            f"this runner cannot be trusted to time: false alarms on {false_alarms or 'nothing'}, "
            f"a planted slowdown passed on {missed or 'nothing'}; verdicts on time are INCONCLUSIVE"
        )
        infopt_gate.distrust_timing(infopt_gate.fault)
    infopt_gate.judgements = itself
    infopt_gate.conclude()


def tightest_margin(gate: GateRun[SelfCheckMeasure]) -> float:
    """The smallest allowed slowdown: 0.05 where the tightest ratio is 1.05."""
    return min(budget.limit for budget in gate.budgets.values()) - 1.0
