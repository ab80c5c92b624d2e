"""What the quality gate measures in the process of the models."""

from __future__ import annotations

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import ScoringEngine, able
from pytest_infopt.measure import dtype_named

from .documents import measure_document


class QualityMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair

    @remote
    def documents(self) -> dict[str, int]:
        """Tokens of the documents by id, in the order of measuring: random, decided by the seed."""
        return {name: len(d.token_ids) for name, d in self._pair.documents_by_id.items()}

    @remote
    def document(self, document_id: str) -> Sample:
        """Quality on one document."""
        pair = self._pair
        document = pair.documents_by_id[document_id]
        return measure_document(
            pair.scores.of(able(pair.reference, ScoringEngine), document.token_ids),
            able(pair.candidate, ScoringEngine).score(document.token_ids),
            document.id,
            document.token_ids,
            pair.reference.decode,
            dtype_named(pair.candidate.dtype),
        )
