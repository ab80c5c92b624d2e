"""What the process of the models is asked after a FAIL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..engines.base import able
from ..process.model_pair import ModelPair
from ..process.remote import remote
from ..results.sample import Sample
from .subjects import Deadline, OpenEngine, Subjects
from .weights import WeightsDiagnosis

__all__ = ["DiagnoseMeasure"]


class DiagnoseMeasure:
    """Diagnoses of one pair; each ends within about the seconds it is given."""

    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair

    @remote
    def weights(self, seconds: float, places: Sequence[tuple[str, int]]) -> Sample:
        """Where the candidate's modules part from the reference's; ``places`` are documents and
        positions at which their outputs do.

        Raises NotSupportedError where an engine keeps its modules to itself.
        """
        started = time.perf_counter()
        subjects = self._subjects(seconds, places)
        found = WeightsDiagnosis(subjects)
        return _sample(started, found.sentences, [found.table().to_json()], found.figures)

    def _subjects(self, seconds: float, places: Sequence[tuple[str, int]]) -> Subjects:
        pair = self._pair
        reference, candidate, plain = (
            able(engine, OpenEngine) for engine in (pair.reference, pair.candidate, pair.plain)
        )
        return Subjects(reference, candidate, plain, self._texts(places), Deadline(seconds))

    def _texts(self, places: Sequence[tuple[str, int]]) -> list[list[int]]:
        """The documents of the places up to behind them, then others that are long enough."""
        documents, asked = self._pair.documents_by_id, self._pair.release.diagnosis
        ends = dict.fromkeys(documents, asked.tokens)
        named = [(name, position) for name, position in places if name in documents]
        for name, position in named:
            ends[name] = max(ends[name], position + 2)
        first = dict.fromkeys(name for name, _ in named)
        others = sorted(
            documents, key=lambda name: -min(asked.tokens, len(documents[name].token_ids))
        )
        chosen = list(dict.fromkeys([*first, *others]))[: asked.texts]
        return [list(documents[name].token_ids[: ends[name]]) for name in chosen]


def _sample(
    started: float, sentences: list[str], tables: list[dict[str, Any]], figures: dict[str, Any]
) -> Sample:
    return Sample(
        unit="diagnosis",
        weight=0,
        values={},
        details={"sentences": sentences, "tables": tables, "figures": figures},
        seconds=time.perf_counter() - started,
    )
