"""Batching: does it leave results alone, what does it gain, and what does its window cost?

PYTEST_DONT_REWRITE
"""

import pytest

from pytest_infopt.metrics.metric import METRICS, Gate, metrics_of
from pytest_infopt.results.verdict import Judgement
from pytest_infopt.run.gate_run import GateRun

pytestmark = pytest.mark.infopt_gate("batching")

THROUGHPUT, WINDOW = METRICS["batching_throughput_ratio"], METRICS["window_latency_seconds"]
INVARIANCE = [m for m in metrics_of(Gate.BATCHING) if m not in (THROUGHPUT, WINDOW)]


def test_batching(infopt_gate: GateRun) -> None:
    """A prompt's row in a batch of any size is what the prompt gives alone, but for rounding.

    Where it is not, rows see each other: padding, a scale or an outlier taken over the batch. Gain
    and cost in time are judged where they have a budget; the reports have the strategies of
    batching side by side, simulated with this model's costs and measured.
    """
    bench, prompts = infopt_gate.bench, infopt_gate.release.cache_prompts
    judgements = infopt_gate.collect(
        range(prompts), bench.measure_batch_invariance, planned=prompts, metrics=INVARIANCE
    )
    infopt_gate.show_samples("errors", "mismatches", "left_out")
    distrust = infopt_gate.session.timing_distrust()
    if distrust:
        infopt_gate.notes.append(f"nothing was timed: {distrust}")
    else:
        judgements = [*judgements, *timed(infopt_gate)]
        infopt_gate.show(bench.strategies_table())
    infopt_gate.judgements = judgements
    infopt_gate.conclude()


def timed(gate: GateRun) -> list[Judgement]:
    """Throughput in pairs drawn by a coin, one where nothing limits it; and the window's cost."""
    pairs = gate.release.batching.max_pairs if THROUGHPUT.name in gate.budgets else 1
    throughput = gate.collect(
        range(pairs),
        lambda index: gate.bench.measure_batching_pair(index, gate.coin(index)),
        planned=pairs,
        seconds=gate.release.statistics.budget_seconds,
        phase="throughput",
        metrics=[THROUGHPUT],
    )
    window = gate.collect(
        [0],
        lambda _: gate.bench.measure_window(),
        planned=1,
        phase="window",
        metrics=[WINDOW],
    )
    return [*throughput, *window]
