"""Memory: what the candidate's weights and KV cache weigh, and its peaks on a fixed workload."""

import pytest

from pytest_infopt.metrics.budget import Budget
from pytest_infopt.metrics.metric import METRICS, Gate, Rule, metrics_of
from pytest_infopt.results.verdict import Judgement
from pytest_infopt.run.gate_run import GateRun, against_reference

pytestmark = pytest.mark.infopt_gate("memory")

RESIDENT = METRICS["host_peak_rss_ratio"]
MOST_PAIRS = 40  # of fresh processes; 9 are the fewest that can pass (STATISTICS: sign test)


def test_memory(infopt_gate: GateRun) -> None:
    """Bytes by category stay within budget, and the KV cache is as large as its formula says.

    A ``kv_prediction_error`` other than 0 means a cache that keeps more than keys and values, or
    one that rounds its length up. Sizes are read twice and compared exactly; resident memory varies
    from process to process, so it is judged on random-order pairs of fresh ones.
    """
    bench = infopt_gate.bench
    reference, first = bench.measure_memory()
    _, second = bench.measure_memory()
    infopt_gate.details["reference"] = reference.values
    sizes = infopt_gate.collect(
        [first, second],
        lambda reading: reading,
        planned=2,
        metrics=[m for m in metrics_of(Gate.MEMORY) if m.rule is Rule.EXACT],
        budgets=against_reference(without_resident(infopt_gate), reference),
    )
    infopt_gate.judgements = [*sizes, *resident(infopt_gate)]
    infopt_gate.conclude()


def without_resident(gate: GateRun) -> dict[str, Budget]:
    return {name: budget for name, budget in gate.budgets.items() if name != RESIDENT.name}


def resident(gate: GateRun) -> list[Judgement]:
    """Peak resident memory of fresh processes: judged where budgeted, else one pair is shown."""
    budgets = {name: b for name, b in gate.budgets.items() if name == RESIDENT.name}
    most = MOST_PAIRS if budgets else 1
    return gate.collect(
        range(most),
        lambda index: gate.session.measure_resident(gate.candidate, gate.coin(index)),
        planned=most,
        phase="resident",
        metrics=[RESIDENT],
        budgets=budgets,
    )
