"""Quality: how far the candidate's next-token distributions are from the reference's.

The unit is the document, drawn in a random order without replacement; tokens of one document are
never counted as independent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .summary import summarise

if TYPE_CHECKING:
    from .measure import QualityMeasure

pytestmark = pytest.mark.infopt_gate("quality")


def test_quality(infopt_gate: GateRun[QualityMeasure]) -> None:
    """KL divergence, perplexity and agreement stay within their budgets.

    A failure here while the equivalence gate passes is lost precision: too few bits, too large a
    group, or a layer that should have been left alone.
    """
    measure = infopt_gate.measure
    documents = measure.documents()
    infopt_gate.collect(documents, measure.document, planned=len(documents))
    infopt_gate.details |= summarise(infopt_gate.samples)
    infopt_gate.conclude()
