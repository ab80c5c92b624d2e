"""Can one threshold on cosines tell questions of one answer from those of another?

A semantic cache serves a stored answer where the cosine of two questions' embeddings reaches its
threshold. On pairs of which it is known whether one answer serves both (`corpus.semantic_pairs`):

    hit precision    same-answer pairs among the hits; 1 less this is the false-hit rate
    recall           hits among the same-answer pairs
    false hits       hits among the pairs of each other category: this does not depend on how
                     many pairs of which category there are, and precision does

`embed_questions` comes first; `separate` then looks for the threshold from which on precision is
shown to be high enough, `play_stream` for what a threshold would bring on a stream of questions.
Shares come with exact 95 % intervals, which take pairs for independent; pairs of one intent are
somewhat less than that.

Legend: N pairs, Q distinct questions, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_infopt import MeasuredTable, Plot, Sample
from pytest_infopt.binomial import upper_bound
from pytest_infopt.errors import InvalidComparisonError

from .gate import SemanticCachePlan
from .proportion import CONFIDENCE, Proportion
from .semantic_pairs import SemanticPair, StreamQuery

Embed = Callable[[Sequence[str]], NDArray[np.floating[Any]]]
Vectors = Mapping[str, NDArray[np.float64]]  # a text's embedding [D], of length 1
Cosines = NDArray[np.float64]

LEAST_PRECISION = 0.99
THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.95, 0.97, 0.98, 0.99)
_SEARCH_ALPHA = (1 - CONFIDENCE) / 4  # of the bound at each threshold of a search
_TEXTS_A_CALL = 64
_EXAMPLES = 5  # false hits that a finding quotes


def embed_questions(embed: Embed, texts: Iterable[str]) -> Vectors:
    """Each distinct text's embedding, scaled to length 1; an embedder sees every text once.

    Raises InvalidComparisonError where the embedder does not give one finite vector with a
    direction for each text, all of one dimension.
    """
    distinct = list(dict.fromkeys(texts))
    vectors: dict[str, NDArray[np.float64]] = {}
    dimension: int | None = None
    for start in range(0, len(distinct), _TEXTS_A_CALL):
        part = distinct[start : start + _TEXTS_A_CALL]
        given = np.asarray(embed(part), dtype=np.float64)
        dimension = given.shape[-1] if given.ndim == 2 and dimension is None else dimension
        if given.shape != (len(part), dimension):
            raise InvalidComparisonError(
                f"the embedder returned an array {list(given.shape)} for {len(part)} texts; it "
                "has to return [number of texts, dimension], of the same dimension every time"
            )
        lengths = np.linalg.norm(given, axis=1)
        for text, vector, length in zip(part, given, lengths, strict=True):
            if not (np.isfinite(length) and length > 0):
                raise InvalidComparisonError(
                    f"the embedding of {text!r} has length {length}: zeros, NaN and infinity have "
                    "no direction to compare"
                )
            vectors[text] = vector / length
    return vectors


def texts_of(pairs: Iterable[SemanticPair]) -> Iterator[str]:
    """What has to be embedded for these pairs."""
    return (text for pair in pairs for text in (pair.query, pair.other))


def pair_cosines(vectors: Vectors, pairs: Sequence[SemanticPair]) -> Cosines:
    """The cosine of each pair's embeddings, [N]."""
    return np.array([vectors[pair.query] @ vectors[pair.other] for pair in pairs])


@dataclass(frozen=True)
class SweepRow:
    """What one threshold does to the pairs; ``false_hits`` by category, of all its pairs."""

    threshold: float
    precision: Proportion
    recall: Proportion
    false_hits: dict[str, Proportion]


def sweep(
    pairs: Sequence[SemanticPair], cosines: Cosines, thresholds: Sequence[float] = THRESHOLDS
) -> list[SweepRow]:
    """One row a threshold, in the order given. A pair hits where its cosine is ≥ the threshold.

    Raises ValueError unless there is one cosine for each pair.
    """
    same, categories = _labels(pairs, cosines), np.array([pair.category for pair in pairs])
    others = {
        category: (categories == category) & ~same
        for category in dict.fromkeys(pair.category for pair in pairs if not pair.same_answer)
    }

    def row(threshold: float) -> SweepRow:
        hits = cosines >= threshold
        right = int((hits & same).sum())
        return SweepRow(
            threshold,
            Proportion(right, int(hits.sum())),
            Proportion(right, int(same.sum())),
            {
                name: Proportion(int((hits & of).sum()), int(of.sum()))
                for name, of in others.items()
            },
        )

    return [row(threshold) for threshold in thresholds]


@dataclass(frozen=True)
class Separation:
    """The answer of `separate`.

    ``threshold`` is None where none separates the pairs; ``best`` is then the one that came
    nearest. ``closest`` are the pairs of different answers with the highest cosines, whatever the
    threshold; ``hits_needed`` is how many hits, all right, would have shown the precision.
    """

    threshold: float | None
    best: SweepRow
    least_precision: float
    hits_needed: int
    closest: tuple[tuple[SemanticPair, float], ...]

    @property
    def finding(self) -> str:
        """One sentence for the report."""
        asked = f"a hit precision of {self.least_precision:.2%} with {CONFIDENCE:.0%} confidence"
        precision, (lower, upper) = self.best.precision, self.best.precision.interval
        seen = (
            f"{precision.events} of {precision.trials} hits right ({lower:.2%} to {upper:.2%}), "
            f"{self.best.recall.share or 0:.1%} of the paraphrases found"
        )
        if self.threshold is not None:
            return f"from {self.threshold:.4f} on, {asked} is shown: {seen}"
        if precision.events == precision.trials:
            return (
                f"no threshold was shown to give {asked}: at best, at {self.best.threshold:.4f}, "
                f"{seen}; it takes {self.hits_needed} hits without a false one"
            )
        pair, cosine = self.closest[0]
        return (
            f"no threshold separates them: {asked} is not reached; at best, at "
            f"{self.best.threshold:.4f}, {seen}. {pair.query!r} and {pair.other!r} "
            f"({pair.category}) have cosine {cosine:.4f}"
        )


def separate(
    pairs: Sequence[SemanticPair], cosines: Cosines, least_precision: float = LEAST_PRECISION
) -> Separation:
    """The smallest threshold whose hit precision is shown to be at least ``least_precision``.

    All observed cosines are tried. A lower bound that errs once in 80 times pays for looking at so
    many: as each threshold's hits are among those of the lower ones, the answer as a whole errs at
    most once in 20 times, for 99 % and sets of up to 1,500 pairs (an exact recursion in the tests).
    Raises ValueError for no pairs, or a precision outside 0…1.
    """
    if not len(pairs) or not 0 < least_precision < 1:
        raise ValueError(
            f"{len(pairs)} pairs and a precision of {least_precision}; give one pair at least and "
            "a precision between 0 and 1"
        )
    same, order = _labels(pairs, cosines), np.argsort(-cosines, kind="stable")
    false = np.cumsum(~same[order])  # [N] false hits among the first n + 1 by cosine
    last_of_ties = np.append(np.diff(cosines[order]) != 0, True)
    best_place, best_lower, threshold = 0, -1.0, None
    for place in np.flatnonzero(last_of_ties):
        lower = 1 - upper_bound(int(false[place]), int(place) + 1, _SEARCH_ALPHA)
        if lower >= least_precision:
            threshold = float(cosines[order[place]])
        if lower > best_lower:
            best_place, best_lower = place, lower
    at = threshold if threshold is not None else float(cosines[order[best_place]])
    different = [place for place in order if not same[place]][:_EXAMPLES]
    return Separation(
        threshold,
        sweep(pairs, cosines, [at])[0],
        least_precision,
        hits_needed(least_precision),
        tuple((pairs[place], float(cosines[place])) for place in different),
    )


def hits_needed(least_precision: float) -> int:
    """The fewest hits, all of them right, that show a precision to `separate`: 437 for 99 %."""
    return int(np.ceil(np.log(_SEARCH_ALPHA) / np.log(least_precision)))


def _labels(pairs: Sequence[SemanticPair], cosines: Cosines) -> NDArray[np.bool_]:
    if cosines.shape != (len(pairs),):
        raise ValueError(f"cosines {list(cosines.shape)} for {len(pairs)} pairs; give one each")
    return np.array([pair.same_answer for pair in pairs], dtype=bool)


def hit_samples(pairs: Sequence[SemanticPair], cosines: Cosines, threshold: float) -> list[Sample]:
    """A sample for each pair that hits: ``semantic_hit_precision`` is 1 if rightly, else 0."""
    _labels(pairs, cosines)
    return [
        Sample(
            pair.id,
            1,
            {"semantic_hit_precision": float(pair.same_answer)},
            details={"category": pair.category, "cosine": float(cosine)},
        )
        for pair, cosine in zip(pairs, cosines, strict=True)
        if cosine >= threshold
    ]


@dataclass(frozen=True)
class StreamResult:
    """What a semantic cache with one threshold did with a stream of queries.

    ``repeats`` are hits whose very text is stored, which a cache of exact texts has as well;
    ``answerable`` are queries whose answer is stored: a perfect cache would hit these and no
    others. Savings count every hit, as the bill does; what
    ``false_hits`` saved was paid for with wrong answers.
    """

    threshold: float
    queries: int
    hits: int
    false_hits: int
    repeats: int
    answerable: int
    plan: SemanticCachePlan

    @property
    def hit_rate(self) -> float:
        return self.hits / self.queries

    @property
    def tokens_saved(self) -> int:
        return self.hits * self.plan.answer_tokens

    @property
    def money_saved(self) -> float:
        return self.hits * self.plan.answer_price

    def sample(self, unit: str) -> Sample:
        """``semantic_hit_rate``, of all queries of this stream."""
        return Sample(
            unit,
            self.queries,
            {"semantic_hit_rate": self.hit_rate},
            details={
                "threshold": self.threshold,
                "false_hits": self.false_hits,
                "repeats": self.repeats,
                "answerable": self.answerable,
                "tokens_saved": self.tokens_saved,
                "money_saved": self.money_saved,
            },
        )


def play_stream(
    vectors: Vectors,
    stream: Sequence[StreamQuery],
    thresholds: Sequence[float],
    plan: SemanticCachePlan,
) -> list[StreamResult]:
    """The stream through an empty cache of each threshold.

    A query is answered by the nearest stored question, the oldest of equally near ones, if its
    cosine reaches the threshold; else by the model, and is stored with its answer. Nothing is
    evicted. The plan says what a hit saves. Raises ValueError for an empty stream.
    """
    if not stream:
        raise ValueError("the stream has no queries; give one at least")
    return [_played(vectors, stream, threshold, plan) for threshold in thresholds]


def _played(
    vectors: Vectors,
    stream: Sequence[StreamQuery],
    threshold: float,
    plan: SemanticCachePlan,
) -> StreamResult:
    # [Q, D], filled in the order of storing; no text is stored twice
    stored = np.empty((len(vectors), next(iter(vectors.values())).size))
    texts, answers = set[str](), list[str]()
    hits = false_hits = repeats = answerable = 0
    for query in stream:
        answerable += query.answer in answers
        vector = vectors[query.text]
        cosines = stored[: len(answers)] @ vector
        nearest = int(cosines.argmax()) if answers else -1
        if answers and cosines[nearest] >= threshold:
            hits += 1
            repeats += query.text in texts
            false_hits += answers[nearest] != query.answer
        elif query.text not in texts:
            stored[len(answers)] = vector
            texts.add(query.text)
            answers.append(query.answer)
    return StreamResult(threshold, len(stream), hits, false_hits, repeats, answerable, plan)


def sweep_table(rows: Sequence[SweepRow]) -> MeasuredTable:
    """A sweep for the reports: precision and recall with intervals, false hits by category."""
    categories = list(rows[0].false_hits)
    return MeasuredTable(
        "semantic cache: hits among the pairs, by threshold",
        (
            "threshold",
            "hits",
            "precision",
            "at least",
            "at most",
            "recall",
            *(f"false hits: {category}" for category in categories),
        ),
        tuple(
            (
                row.threshold,
                row.precision.trials,
                row.precision.share,
                *row.precision.interval,
                row.recall.share,
                *(row.false_hits[category].share for category in categories),
            )
            for row in rows
        ),
        plot=Plot("threshold", ("precision", "recall"), "share"),
    )


def stream_table(results: Sequence[StreamResult]) -> MeasuredTable:
    """What thresholds bring on a stream, for the reports."""
    return MeasuredTable(
        f"semantic cache: a stream of {results[0].queries} queries",
        ("threshold", "hit rate", "false hits", "same text again", "tokens saved", "money saved"),
        tuple(
            (
                result.threshold,
                result.hit_rate,
                result.false_hits,
                result.repeats,
                result.tokens_saved,
                result.money_saved,
            )
            for result in results
        ),
        ("savings count every hit; the false ones among them were wrong answers",),
    )
