"""What the process of the models is asked after a FAIL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..engines.base import able
from ..errors import InfoptError
from ..process.model_pair import ModelPair
from ..process.remote import remote
from ..results.sample import Sample
from .artifact import compare_with_artifact
from .decoding import DecodingDiagnosis
from .mixed_precision import MixedPrecision, mixed_precision, takes_skip
from .routes import RoutesDiagnosis
from .subjects import Deadline, OpenEngine, Subjects
from .weights import DEGRADED, WeightsDiagnosis

__all__ = ["DiagnoseMeasure"]

_DECODED = 4  # times as many tokens, since caches have windows, blocks and rings


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
        table, figures = found.table().to_json(), found.figures
        sentences = found.sentences
        if (
            found.kind == DEGRADED
            and takes_skip(self._pair.source)
            and not subjects.deadline.passed
        ):
            try:
                tried = self._mixed_precision(found, subjects)
            except InfoptError as error:
                sentences.append(f"a mixed precision could not be tried: {error}")
            else:
                sentences += tried.sentences
                figures |= {"mixed_precision": tried.figures}
        if found.lossless and found.accused:
            loaded = compare_with_artifact(self._pair.source, subjects.candidate)
            sentences += loaded.sentences
            figures |= {"artifact": loaded.figures}
        return _sample(started, sentences, [table], figures)

    def _mixed_precision(self, found: WeightsDiagnosis, subjects: Subjects) -> MixedPrecision:
        return mixed_precision(self._pair.source, subjects.reference, found.swaps, found.layers)

    @remote
    def cache(self, seconds: float, places: Sequence[tuple[str, int]]) -> Sample:
        """At which step and module passes through the candidate's cache part from plain ones.

        Raises NotSupportedError where an engine keeps its modules to itself, or has no cache.
        """
        started = time.perf_counter()
        found = DecodingDiagnosis(self._subjects(seconds, places, _DECODED))
        return _sample(started, found.sentences, [], found.figures)

    @remote
    def routes(self, seconds: float, places: Sequence[tuple[str, int]]) -> Sample:
        """By which module the candidate's outputs depend on how a row is served.

        Raises NotSupportedError where an engine keeps its modules to itself.
        """
        started = time.perf_counter()
        found = RoutesDiagnosis(self._subjects(seconds, places))
        return _sample(started, found.sentences, [], found.figures)

    def _subjects(
        self, seconds: float, places: Sequence[tuple[str, int]], times: int = 1
    ) -> Subjects:
        pair = self._pair
        reference, candidate, plain = (
            able(engine, OpenEngine) for engine in (pair.reference, pair.candidate, pair.plain)
        )
        return Subjects(reference, candidate, plain, self._texts(places, times), Deadline(seconds))

    def _texts(self, places: Sequence[tuple[str, int]], times: int) -> list[list[int]]:
        """The documents of the places up to behind them, then others that are long enough."""
        documents, asked = self._pair.documents_by_id, self._pair.release.diagnosis
        ends = dict.fromkeys(documents, asked.tokens * times)
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
