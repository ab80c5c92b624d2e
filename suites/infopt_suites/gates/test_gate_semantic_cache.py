"""Semantic cache: does its threshold tell questions of one answer from others?"""

import pytest

from pytest_infopt.metrics.metric import METRICS
from pytest_infopt.release import SEMANTIC_ALPHA
from pytest_infopt.run.gate_run import GateRun

pytestmark = pytest.mark.infopt_gate("semantic-cache")

PRECISION, RATE = METRICS["semantic_hit_precision"], METRICS["semantic_hit_rate"]


def test_semantic_cache(infopt_gate: GateRun) -> None:
    """Of the pairs that hit at the threshold, hardly any has another answer.

    The reports have precision and recall at all thresholds, false hits by kind of near-miss
    (negation, other entity or number, reversed relation), and what the cache saves on a stream. A
    threshold at which nothing hits is safe and useless: nothing is shown then.
    """
    bench = infopt_gate.session.semantic_bench()
    try:
        hits = bench.call("hits")
        precision = infopt_gate.collect(
            hits,
            lambda hit: hit,
            planned=max(1, len(hits)),
            metrics=[PRECISION],
            alpha=SEMANTIC_ALPHA,
        )
        rate = infopt_gate.collect(
            [0],
            lambda _: bench.call("stream"),
            planned=1,
            phase="stream",
            metrics=[RATE],
        )
        for table in bench.call("tables"):
            infopt_gate.show(table)
    finally:
        bench.close()
    infopt_gate.judgements = [*precision, *rate]
    infopt_gate.conclude()
