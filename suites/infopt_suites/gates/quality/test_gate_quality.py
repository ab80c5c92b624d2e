"""Quality: how far the candidate's next-token distributions are from the reference's.

The unit is the document, drawn in a random order without replacement; tokens of one document are
never counted as independent.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .gate import OF_DOCUMENTS, PROFILE
from .profile import missing_lengths, profile
from .summary import summarise
from .tables import quality_tables
from .training import training_table

if TYPE_CHECKING:
    from .measure import QualityMeasure

pytestmark = pytest.mark.infopt_gate("quality")


def test_quality(infopt_gate: GateRun[QualityMeasure]) -> None:
    """KL divergence, perplexity and agreement stay within their budgets.

    A failure here while the equivalence gate passes is lost precision: too few bits, too large a
    group, or a layer that should have been left alone. Where the profile alone fails, positions or
    the session are at fault: a table or cache that ends, a window, a state that grows.
    """
    measure = infopt_gate.measure
    documents = measure.documents()
    judgements = infopt_gate.collect(
        documents, measure.document, planned=len(documents), metrics=OF_DOCUMENTS
    )
    in_order = list(infopt_gate.samples)
    infopt_gate.details |= (summary := summarise(in_order))
    for table in quality_tables(in_order, summary):
        infopt_gate.show(table.to_json())
    if not infopt_gate.failed:
        # What follows depends on how many there are: a resumed run, which may have more, does not
        # take it from the journal.
        so_far = f"after {len(in_order)}"
        more = missing_lengths(documents, (sample.unit for sample in in_order))
        infopt_gate.collect(
            more,
            measure.document,
            planned=max(1, len(more)),
            phase=f"lengths {so_far}",
            metrics=[],
        )
        rest = infopt_gate.samples[len(in_order) :]
        judgements += infopt_gate.collect(
            [0],
            lambda _: profile(in_order, rest),
            planned=1,
            phase=f"profile {so_far}, {len(rest)}",
            metrics=PROFILE,
        )
        infopt_gate.judgements = judgements
    infopt_gate.show_samples()
    if training := training_table(Path(infopt_gate.candidate.source.model)):
        infopt_gate.show(training.to_json())
    infopt_gate.conclude()
