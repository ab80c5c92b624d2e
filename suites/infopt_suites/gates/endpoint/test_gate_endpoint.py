"""Endpoint: is what a server tells of its model near what the reference finds?

The unit is the document, drawn in a random order without replacement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .gate import KL, OF_TOKENS, EndpointPlan

if TYPE_CHECKING:
    from .measure import EndpointMeasure

pytestmark = pytest.mark.infopt_gate("endpoint")


def test_endpoint(infopt_gate: GateRun[EndpointMeasure]) -> None:
    """Log-probabilities and greedy tokens of a server stay within their budgets.

    The divergence is a lower bound: of tokens that the server does not tell, only the sum counts.
    A FAIL here is evidence against the candidate; a PASS is weaker than that of whole
    distributions.
    """
    measure = infopt_gate.measure
    documents = list(measure.documents())
    continued = documents[: infopt_gate.plan(EndpointPlan).prompts]
    judgements = infopt_gate.collect(
        continued, measure.tokens, planned=len(continued), phase="tokens", metrics=OF_TOKENS
    )
    if not infopt_gate.failed:
        judgements += infopt_gate.collect(
            documents, measure.scores, planned=len(documents), metrics=[KL]
        )
        infopt_gate.judgements = judgements
    infopt_gate.show_samples()
    infopt_gate.conclude()
