"""Quality: how far the candidate's next-token distributions are from the reference's.

The unit is the document, drawn in a random order without replacement; tokens of one document are
never counted as independent.
"""

import pytest

from pytest_infopt.measure.summary import summarise
from pytest_infopt.run.gate_run import GateRun

pytestmark = pytest.mark.infopt_gate("quality")


def test_quality(infopt_gate: GateRun) -> None:
    """KL divergence, perplexity and agreement stay within their budgets.

    A failure here while the equivalence gate passes is lost precision: too few bits, too large a
    group, or a layer that should have been left alone.
    """
    bench = infopt_gate.bench
    documents = bench.documents()
    infopt_gate.collect(documents, bench.measure_document, planned=len(documents))
    infopt_gate.details |= summarise(infopt_gate.samples)
    infopt_gate.conclude()
