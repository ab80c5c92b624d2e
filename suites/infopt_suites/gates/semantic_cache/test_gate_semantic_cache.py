"""Semantic cache: does its threshold tell questions of one answer from others?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .gate import PRECISION, RATE

if TYPE_CHECKING:
    from .measure import SemanticCacheMeasure

pytestmark = pytest.mark.infopt_gate("semantic-cache")


def test_semantic_cache(infopt_gate: GateRun[SemanticCacheMeasure]) -> None:
    """Of the pairs that hit at the threshold, hardly any has another answer.

    The reports have precision and recall at all thresholds, false hits by kind of near-miss
    (negation, other entity or number, reversed relation), and what the cache saves on a stream. A
    threshold at which nothing hits is safe and useless: nothing is shown then.
    """
    measure = infopt_gate.measure
    hits = measure.hits()
    precision = infopt_gate.collect(
        hits, lambda hit: hit, planned=max(1, len(hits)), metrics=[PRECISION]
    )
    rate = infopt_gate.collect(
        [0], lambda _: measure.stream(), planned=1, phase="stream", metrics=[RATE]
    )
    for table in measure.tables():
        infopt_gate.show(table)
    infopt_gate.judgements = [*precision, *rate]
    infopt_gate.conclude()
