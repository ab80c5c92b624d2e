"""KV cache: does a token come out of it as without it, and is it as large as it should be?"""

import pytest

from pytest_infopt.metrics.metric import METRICS, Gate, metrics_of
from pytest_infopt.run.gate_run import GateRun

pytestmark = pytest.mark.infopt_gate("kv-cache")

SIZE = METRICS["kv_size_error"]


def test_kv_cache(infopt_gate: GateRun) -> None:
    """Stepwise, chunked, ragged and rolled-back decoding keep to the dtype's own error; bytes held
    are those of the formula at every length and batch size.

    Where one way alone is wrong, its name says what to look at (``details.errors``): padding and
    positions for the ragged batch, the mask's corner for chunked prefill, ``crop`` for what was
    taken back. The reports have what a step costs with and without the cache, and its memory.
    """
    bench = infopt_gate.bench
    prompts = infopt_gate.release.cache_prompts
    outputs = infopt_gate.collect(
        range(prompts),
        bench.measure_kv_prompt,
        planned=prompts,
        metrics=[metric for metric in metrics_of(Gate.KV_CACHE) if metric is not SIZE],
    )
    sizes = infopt_gate.collect(
        [0],
        lambda _: bench.measure_kv_growth(),
        planned=1,
        phase="growth",
        metrics=[SIZE],
    )
    infopt_gate.show_samples("errors", "mismatches", "left_out")
    for reason in {r for s in infopt_gate.samples for r in s.details.get("left_out", {}).values()}:
        infopt_gate.notes.append(f"not tried: {reason}")
    infopt_gate.judgements = [*outputs, *sizes]
    infopt_gate.conclude()
