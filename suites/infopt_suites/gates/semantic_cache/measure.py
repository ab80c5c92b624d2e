"""What the gate on semantic caches measures: an embedder's cosines, and what they tell."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from inspect import isawaitable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.naming import import_named

from .gate import GATE, PRECISION, SemanticCachePlan
from .semantic_pairs import SemanticPair, query_stream, read_pairs, semantic_pairs
from .thresholds import (
    LEAST_PRECISION,
    StreamResult,
    Vectors,
    embed_questions,
    hit_samples,
    pair_cosines,
    play_stream,
    separate,
    stream_table,
    sweep,
    sweep_table,
    texts_of,
)

_OWN = {"minilm": "infopt_reference.caching:MiniLMEmbedder"}


class SemanticCacheMeasure:
    """Judges ``plan.embedder`` on pairs of questions, and plays a stream through its thresholds."""

    def __init__(self, pair: ModelPair) -> None:
        self._release = pair.release
        self._plan = pair.release.plan(SemanticCachePlan)

    @remote
    def hits(self) -> list[Sample]:
        """A sample for each pair that hits at the plan's threshold: 1 if rightly, else 0."""
        return hit_samples(self._pairs, self._cosines, self._plan.threshold)

    @remote
    def stream(self) -> Sample:
        """The hit rate of the plan's threshold on the stream."""
        return self._results[0].sample("stream")

    @remote
    def tables(self) -> list[dict[str, Any]]:
        """Precision and recall by threshold, with the finding; hit rates and savings."""
        found = separate(self._pairs, self._cosines, self._least_precision)
        curve = sweep_table(sweep(self._pairs, self._cosines)).to_json()
        curve["notes"] = [found.finding, *curve["notes"]]
        return [curve, stream_table(self._results).to_json()]

    @property
    def _least_precision(self) -> float:
        budget = self._release.budgets.get(GATE.name, {}).get(PRECISION.name)
        return LEAST_PRECISION if budget is None else budget.limit

    @cached_property
    def _pairs(self) -> list[SemanticPair]:
        return semantic_pairs() if self._plan.pairs is None else read_pairs(self._plan.pairs)

    @cached_property
    def _vectors(self) -> Vectors:
        stream = (query.text for query in self._queries)
        return embed_questions(self._embed, [*texts_of(self._pairs), *stream])

    @cached_property
    def _cosines(self) -> NDArray[np.float64]:
        return pair_cosines(self._vectors, self._pairs)

    @cached_property
    def _queries(self) -> list[Any]:
        return query_stream(self._release.statistics.seed, self._plan.queries)

    @cached_property
    def _results(self) -> list[StreamResult]:
        plan = self._plan
        others = [at for at in plan.stream_thresholds if at != plan.threshold]
        return play_stream(self._vectors, self._queries, [plan.threshold, *others], plan)

    @cached_property
    def _embed(self) -> Callable[[Sequence[str]], NDArray[np.floating[Any]]]:
        """The embedder as a plain function, whether it is one, a class, or has a method embed."""
        found = self._imported()
        embedder = found() if isinstance(found, type) else found
        embed = getattr(embedder, "embed", embedder)

        async def awaited(result: Awaitable[Any]) -> Any:
            return await result

        def call(texts: Sequence[str]) -> NDArray[np.floating[Any]]:
            result = embed(list(texts))
            return np.asarray(asyncio.run(awaited(result)) if isawaitable(result) else result)

        return call

    def _imported(self) -> Any:
        sys.path.insert(0, str(self._release.directory.absolute()))
        try:
            return import_named(_OWN.get(self._plan.embedder, self._plan.embedder))
        except ConfigurationError as error:
            raise ConfigurationError(f"semantic_cache.embedder {error}") from error
        finally:
            sys.path.pop(0)
