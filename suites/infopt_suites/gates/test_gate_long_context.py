"""Long contexts: does the candidate keep to the reference, and to itself, as texts get longer?"""

import pytest

from pytest_infopt.run.gate_run import GateRun

pytestmark = pytest.mark.infopt_gate("long-context")


def test_long_context(infopt_gate: GateRun) -> None:
    """At every length of the sweep, the last positions keep KL and the cache's error within limits.

    KL that grows with length, where short texts pass the quality gate, points to positions: a rope
    that is scaled otherwise, a window, a cache whose own errors add up.
    """
    bench = infopt_gate.bench
    plan = infopt_gate.release.long_context
    texts = len(plan.lengths) * plan.texts
    infopt_gate.collect(range(texts), bench.measure_long_text, planned=texts)
    infopt_gate.show(bench.long_context_table(infopt_gate.samples))
    infopt_gate.conclude()
