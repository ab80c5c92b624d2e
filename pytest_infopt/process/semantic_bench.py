"""The semantic cache's bench: an embedder in a worker process, and what its cosines tell.

`SemanticBench` is to the semantic cache gate what `bench.Bench` is to the others.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import cached_property
from importlib import import_module
from inspect import isawaitable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpus.semantic_pairs import SemanticPair, query_stream, semantic_pairs
from ..errors import ConfigurationError
from ..measure.semantic import (
    LEAST_PRECISION,
    AnswerCost,
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
from ..release import SemanticCachePlan
from ..results.sample import Sample

_OWN = {"minilm": "infopt_reference.caching:MiniLMEmbedder"}


class SemanticBench:
    """Judges ``plan.embedder`` on pairs of questions, and plays a stream through its thresholds."""

    def __init__(self, plan: SemanticCachePlan, seed: int) -> None:
        self._plan = plan
        self._seed = seed

    def hits(self) -> list[Sample]:
        """A sample for each pair that hits at the plan's threshold: 1 if rightly, else 0."""
        return hit_samples(self._pairs, self._cosines, self._plan.threshold)

    def stream(self) -> Sample:
        """The hit rate of the plan's threshold on the stream."""
        return self._results[0].sample("stream")

    def tables(self) -> list[dict[str, Any]]:
        """Precision and recall by threshold, with the finding; hit rates and savings."""
        found = separate(self._pairs, self._cosines, self._least_precision)
        curve = sweep_table(sweep(self._pairs, self._cosines)).to_json()
        curve["notes"] = [found.finding, *curve["notes"]]
        return [curve, stream_table(self._results).to_json()]

    @property
    def _least_precision(self) -> float:
        budget = self._plan.budgets.get("semantic_hit_precision")
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
        return query_stream(self._seed, self._plan.queries)

    @cached_property
    def _results(self) -> list[StreamResult]:
        plan = self._plan
        others = [at for at in plan.stream_thresholds if at != plan.threshold]
        cost = AnswerCost(
            plan.prompt_tokens, plan.completion_tokens, plan.prompt_price, plan.completion_price
        )
        return play_stream(self._vectors, self._queries, [plan.threshold, *others], cost)

    @cached_property
    def _embed(self) -> Callable[[Sequence[str]], NDArray[np.floating[Any]]]:
        """The embedder as a plain function, whether it is one, a class, or has a method embed."""
        found = _imported(self._plan)
        embedder = found() if isinstance(found, type) else found
        embed = getattr(embedder, "embed", embedder)

        async def awaited(result: Awaitable[Any]) -> Any:
            return await result

        def call(texts: Sequence[str]) -> NDArray[np.floating[Any]]:
            result = embed(list(texts))
            return np.asarray(asyncio.run(awaited(result)) if isawaitable(result) else result)

        return call


def read_pairs(path: Path) -> list[SemanticPair]:
    """A user's own pairs: JSONL with ``query``, ``other``, ``same_answer`` and maybe ``category``.

    Raises ConfigurationError naming the file and the line that does not fit.
    """
    pairs = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigurationError(f"semantic_cache.pairs: {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            query, other, same = record["query"], record["other"], record["same_answer"]
            if not (isinstance(query, str) and isinstance(other, str) and isinstance(same, bool)):
                raise TypeError("query and other are texts, same_answer is true or false")
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path}:{number}: no pair ({error!r}); write "
                '{"query": "…", "other": "…", "same_answer": true}'
            ) from error
        category = record.get("category", "same answer" if same else "another answer")
        pairs.append(SemanticPair(f"{path.stem}:{number}", str(category), query, other, same))
    if not pairs:
        raise ConfigurationError(f"{path}: holds no pairs")
    return pairs


def _imported(plan: SemanticCachePlan) -> Any:
    target = _OWN.get(plan.embedder, plan.embedder)
    module, _, name = target.partition(":")
    sys.path.insert(0, str(plan.directory.absolute()))
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"semantic_cache.embedder {plan.embedder!r}: {error}") from error
    finally:
        sys.path.pop(0)
    return found
