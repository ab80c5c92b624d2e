"""Semantic caches: thresholds on pairs, streams through a cache, and the real embedder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from infopt_suites.gates.semantic_cache.gate import SemanticCachePlan
from infopt_suites.gates.semantic_cache.semantic_pairs import (
    CATEGORIES,
    PARAPHRASE,
    UNRELATED,
    SemanticPair,
    StreamQuery,
    query_stream,
    semantic_intents,
    semantic_pairs,
)
from infopt_suites.gates.semantic_cache.thresholds import (
    embed_questions,
    hit_samples,
    hits_needed,
    pair_cosines,
    play_stream,
    separate,
    stream_table,
    sweep,
    sweep_table,
    texts_of,
)
from numpy.typing import NDArray
from scipy import stats

from pytest_infopt.errors import InvalidComparisonError

Array = NDArray[np.float64]


def pair(number: int, category: str) -> SemanticPair:
    return SemanticPair(f"p{number}", category, f"q{number}", f"o{number}", category == PARAPHRASE)


def labelled(labels: Sequence[bool]) -> list[SemanticPair]:
    return [pair(i, PARAPHRASE if same else UNRELATED) for i, same in enumerate(labels)]


# Few distinct cosines, so that ties are frequent.
SCORED = st.lists(
    st.tuples(st.sampled_from(CATEGORIES), st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.875, 1.0])),
    min_size=1,
    max_size=60,
)


def answer_vectors() -> Callable[[Sequence[str]], Array]:
    """The embedder of dreams: questions have the same vector if they have the same answer."""
    answers: dict[str, int] = {}
    for intent in semantic_intents():
        own = len(set(answers.values()))
        answers |= dict.fromkeys(intent.phrasings, own)
        for question in intent.near_misses.values():
            answers[question] = len(set(answers.values()))
    basis = np.eye(len(set(answers.values())))
    return lambda texts: basis[[answers[text] for text in texts]]


# Embedding


def test_every_text_is_embedded_once_and_scaled_to_length_one() -> None:
    seen: list[str] = []

    def embed(texts: Sequence[str]) -> Array:
        seen.extend(texts)
        return np.array([[3.0 * len(text), 4.0 * len(text)] for text in texts])

    texts = [f"text {i % 150}" for i in range(400)]
    vectors = embed_questions(embed, texts)
    assert sorted(seen) == sorted(set(texts))
    assert list(vectors) == list(dict.fromkeys(texts))
    assert all(np.array_equal(vector, [0.6, 0.8]) for vector in vectors.values())


@given(st.integers(0, 2**32), st.integers(2, 24))
def test_cosines_ignore_lengths_and_rotations(seed: int, dimension: int) -> None:
    generator = np.random.default_rng(seed)
    pairs = labelled([True] * 10)
    texts = list(texts_of(pairs))
    raw = dict(zip(texts, generator.normal(size=(len(texts), dimension)), strict=True))
    rotation, _ = np.linalg.qr(generator.normal(size=(dimension, dimension)))
    scale = dict(zip(texts, np.exp(generator.normal(size=len(texts))), strict=True))
    plain = embed_questions(lambda some: np.array([raw[text] for text in some]), texts)
    turned = embed_questions(
        lambda some: np.array([scale[text] * (rotation @ raw[text]) for text in some]), texts
    )
    expected = [
        math.fsum(raw[p.query] * raw[p.other])
        / math.sqrt(math.fsum(raw[p.query] ** 2) * math.fsum(raw[p.other] ** 2))
        for p in pairs
    ]
    # A product of D×D, two norms and a dot product of D terms; each term is at most 1.
    rounding = (dimension**1.5 + 6 * dimension) * np.finfo(np.float64).eps
    assert pair_cosines(plain, pairs) == pytest.approx(expected, abs=rounding)
    assert pair_cosines(turned, pairs) == pytest.approx(expected, abs=rounding)


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_a_vector_without_direction_is_named(bad: float) -> None:
    def embed(texts: Sequence[str]) -> Array:
        return np.array([[bad, 0.0] if text == "odd one" else [1.0, 0.0] for text in texts])

    with pytest.raises(InvalidComparisonError, match="'odd one' has length"):
        embed_questions(embed, ["fine", "odd one"])


@pytest.mark.parametrize(
    "embed",
    [
        lambda texts: np.ones(len(texts)),
        lambda texts: np.ones((len(texts) + 1, 3)),
        lambda texts: np.ones((len(texts), len(texts))),  # another dimension for the last few
    ],
)
def test_arrays_of_another_shape_are_refused(embed: Callable[[Sequence[str]], Array]) -> None:
    with pytest.raises(InvalidComparisonError, match=r"\[number of texts, dimension\]"):
        embed_questions(embed, [str(i) for i in range(100)])


# Thresholds


@given(SCORED, st.sampled_from([-1.0, 0.25, 0.3, 0.875, 1.0, 1.5]))
def test_a_sweep_counts_pairs(scored: list[tuple[str, float]], threshold: float) -> None:
    pairs = [pair(i, category) for i, (category, _) in enumerate(scored)]
    (row,) = sweep(pairs, np.array([cosine for _, cosine in scored]), [threshold])
    hits = [category for category, cosine in scored if cosine >= threshold]
    right = hits.count(PARAPHRASE)
    assert (row.precision.events, row.precision.trials) == (right, len(hits))
    same = [category for category, _ in scored].count(PARAPHRASE)
    assert (row.recall.events, row.recall.trials) == (right, same)
    counts = {name: (each.events, each.trials) for name, each in row.false_hits.items()}
    assert counts == {
        category: (hits.count(category), [c for c, _ in scored].count(category))
        for category in {c for c, _ in scored} - {PARAPHRASE}
    }


@given(SCORED, st.permutations(range(60)), st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_separate_finds_the_smallest_threshold_whose_bound_suffices(
    scored: list[tuple[str, float]], shuffle: list[int], least: float
) -> None:
    pairs = [pair(i, category) for i, (category, _) in enumerate(scored)]
    cosines = np.array([cosine for _, cosine in scored])
    lowers = {}
    for threshold in sorted(set(cosines.tolist())):
        hits = [p.same_answer for p, c in zip(pairs, cosines, strict=True) if c >= threshold]
        # One-sided 98.75 %: the lower end of a two-sided interval of 97.5 %.
        lower = stats.binomtest(sum(hits), len(hits)).proportion_ci(0.975, method="exact").low
        assume(abs(lower - least) > 1e-9)
        lowers[threshold] = lower
    found = separate(pairs, cosines, least)
    assert found.threshold == min((t for t, low in lowers.items() if low > least), default=None)
    if found.threshold is None:
        assert lowers[found.best.threshold] == pytest.approx(max(lowers.values()), abs=1e-9)
    else:
        assert found.best.threshold == found.threshold
    order = [i for i in shuffle if i < len(pairs)]
    again = separate([pairs[i] for i in order], cosines[order], least)
    assert (again.threshold, again.best) == (found.threshold, found.best)


@given(st.integers(1, 3), st.booleans())
def test_so_many_right_hits_are_needed_and_enough(missing: int, one_false: bool) -> None:
    needed = hits_needed(0.99)
    enough = labelled([True] * needed)
    assert separate(enough, np.ones(needed)).threshold == 1.0
    short = labelled([True] * (needed - missing) + [False] * one_false)
    found = separate(short, np.ones(len(short)))
    assert found.threshold is None
    assert (f"takes {needed} hits" in found.finding) == (not one_false)


def test_looking_at_all_thresholds_errs_once_in_twenty_at_most() -> None:
    """The probability that hits of precision 99 % ever seem better, exactly, for the worst case
    in which every hit brings a threshold of its own."""
    rate, pairs = 0.01, 1500
    assert len(semantic_pairs()) <= pairs
    needed = hits_needed(1 - rate)
    alpha = (1 - rate) ** needed
    assert alpha <= 0.0125 < (1 - rate) ** (needed - 1)
    state = np.zeros(pairs + 1)  # of so many false hits, and not yet taken for good
    state[0] = 1.0
    erred = 0.0
    for hits in range(1, pairs + 1):
        state[1:] = state[1:] * (1 - rate) + state[:-1] * rate
        state[0] *= 1 - rate
        allowed = int(stats.binom.ppf(0.0125, hits, rate))
        if stats.binom.cdf(allowed, hits, rate) > 0.0125:
            allowed -= 1
        erred += state[: allowed + 1].sum()
        state[: allowed + 1] = 0.0
    assert erred + state.sum() == pytest.approx(1, abs=pairs * 2**-50)
    assert 0.0125 < erred <= 0.05


def test_a_sound_embedder_separates_the_shipped_pairs() -> None:
    pairs = semantic_pairs()
    cosines = pair_cosines(embed_questions(answer_vectors(), texts_of(pairs)), pairs)
    found = separate(pairs, cosines)
    assert found.threshold == 1.0
    assert found.best.recall.share == found.best.precision.share == 1.0
    assert found.closest[0][1] == 0.0
    assert "is shown" in found.finding


def test_one_vector_for_all_questions_separates_nothing() -> None:
    pairs = semantic_pairs()
    vectors = embed_questions(lambda texts: np.ones((len(texts), 2)), texts_of(pairs))
    found = separate(pairs, pair_cosines(vectors, pairs))
    assert found.threshold is None
    assert found.best.precision.trials == len(pairs)
    assert all(share.share == 1 for share in found.best.false_hits.values())
    assert found.finding.startswith("no threshold separates them")
    assert not found.closest[0][0].same_answer


@pytest.mark.parametrize("least", [0.0, 1.0, math.nan])
def test_precisions_that_nothing_could_show_are_refused(least: float) -> None:
    with pytest.raises(ValueError, match="a precision between 0 and 1"):
        separate(labelled([True]), np.ones(1), least)


def test_no_pairs_and_missing_cosines_are_refused() -> None:
    with pytest.raises(ValueError, match="0 pairs"):
        separate([], np.ones(0))
    for measure in (sweep, separate, lambda p, c: hit_samples(p, c, 0.5)):
        with pytest.raises(ValueError, match=r"cosines \[2\] for 1 pairs"):
            measure(labelled([True]), np.ones(2))


def test_samples_are_the_pairs_that_hit() -> None:
    pairs = [pair(0, PARAPHRASE), pair(1, "negation"), pair(2, PARAPHRASE)]
    samples = hit_samples(pairs, np.array([0.9, 0.95, 0.8]), 0.9)
    assert [(s.unit, s.weight, s.values) for s in samples] == [
        ("p0", 1, {"semantic_hit_precision": 1.0}),
        ("p1", 1, {"semantic_hit_precision": 0.0}),
    ]
    assert samples[1].details == {"category": "negation", "cosine": 0.95}


# Streams


def naive_stream(
    vectors: dict[str, Array], stream: Sequence[StreamQuery], threshold: float
) -> tuple[int, int, int, int]:
    """A list of what is stored, searched from its beginning."""
    stored: list[StreamQuery] = []
    hits = false = repeats = answerable = 0
    for query in stream:
        answerable += any(old.answer == query.answer for old in stored)
        nearest, best = None, -2.0
        for old in stored:
            cosine = float(vectors[old.text] @ vectors[query.text])
            if cosine > best:
                nearest, best = old, cosine
        if nearest is not None and best >= threshold:
            hits += 1
            false += nearest.answer != query.answer
            repeats += any(old.text == query.text for old in stored)
        elif all(old.text != query.text for old in stored):
            stored.append(query)
    return hits, false, repeats, answerable


# Vectors of small integers on an orthogonal frame: cosines are exact, and ties are ties.
POINTS = {
    f"t{i}": np.array(point, dtype=float)
    for i, point in enumerate(
        [(1, 0, 0, 0), (0, 1, 0, 0), (0, -1, 0, 0), (1, 1, 1, 1), (1, 1, 1, -1)]
    )
}


@given(
    st.lists(st.sampled_from(sorted(POINTS)), min_size=1, max_size=30),
    st.lists(st.integers(0, 2), min_size=5, max_size=5),
    st.sampled_from([-1.0, 0.0, 0.5, 0.75, 1.0, 1.25]),
)
def test_a_stream_is_played_as_a_plain_list_would(
    texts: list[str], answers: list[int], threshold: float
) -> None:
    vectors = embed_questions(lambda some: np.array([POINTS[text] for text in some]), texts)
    stream = [StreamQuery(text, f"a{answers[int(text[1])]}") for text in texts]
    (result,) = play_stream(vectors, stream, [threshold], SemanticCachePlan())
    counted = (result.hits, result.false_hits, result.repeats, result.answerable)
    assert counted == naive_stream(dict(vectors), stream, threshold)
    assert result.hit_rate == result.hits / len(texts)


@pytest.mark.parametrize(("first", "false_hits"), [("t0", 0), ("t1", 1)])
def test_of_equally_near_questions_the_oldest_answers(first: str, false_hits: int) -> None:
    second = {"t0": "t1", "t1": "t0"}[first]  # both have cosine 1/2 with t3
    vectors = embed_questions(lambda some: np.array([POINTS[text] for text in some]), POINTS)
    stream = [StreamQuery(first, first), StreamQuery(second, second), StreamQuery("t3", "t0")]
    (result,) = play_stream(vectors, stream, [0.5], SemanticCachePlan())
    assert (result.hits, result.false_hits) == (1, false_hits)


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_embedder_of_dreams_hits_whatever_can_be_answered(seed: int, share: float) -> None:
    stream = query_stream(seed, 120, near_miss_share=share)
    vectors = embed_questions(answer_vectors(), (query.text for query in stream))
    ideal, never, always = play_stream(vectors, stream, [1.0, 1.5, -1.0], SemanticCachePlan())
    assert ideal.hits == ideal.answerable == 120 - len({query.answer for query in stream})
    assert ideal.false_hits == 0
    assert (never.hits, never.false_hits, never.repeats) == (0, 0, 0)
    assert always.hits == 119
    assert always.false_hits == sum(query.answer != stream[0].answer for query in stream)


def test_savings_are_hits_times_what_an_answer_costs() -> None:
    stream = [StreamQuery("t0", "a"), StreamQuery("t0", "a"), StreamQuery("t1", "b")] * 2
    vectors = embed_questions(lambda some: np.array([POINTS[text] for text in some]), POINTS)
    plan = SemanticCachePlan(
        prompt_tokens=300, completion_tokens=100, prompt_price=2.0, completion_price=8.0
    )
    (result,) = play_stream(vectors, stream, [0.9], plan)
    assert result.hits == 4
    assert result.tokens_saved == 1600
    assert result.money_saved == pytest.approx(4 * 1400e-6, rel=2**-50)
    sample = result.sample("stream-0")
    assert sample.values == {"semantic_hit_rate": 4 / 6}
    assert sample.details["tokens_saved"] == 1600


def test_an_empty_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="no queries"):
        play_stream({}, [], [0.9], SemanticCachePlan())


def test_tables_have_a_row_a_threshold_and_a_cell_a_column() -> None:
    pairs = semantic_pairs()
    vectors = embed_questions(answer_vectors(), texts_of(pairs))
    rows = sweep(pairs, pair_cosines(vectors, pairs))
    played = play_stream(
        vectors, query_stream(0, 50, near_miss_share=0.0), [0.92, 0.95], SemanticCachePlan()
    )
    for table, count in ((sweep_table(rows), len(rows)), (stream_table(played), 2)):
        assert len(table.rows) == count
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert sweep_table(rows).rows[0][:3] == (rows[0].threshold, 894, 1.0)


# The real embedder


@pytest.mark.slow
def test_minilm_agrees_with_sentence_transformers_and_separates_nothing() -> None:
    """all-MiniLM-L6-v2 puts swapped roles, numbers and negations nearer than most paraphrases."""
    reference = pytest.importorskip("sentence_transformers")
    caching: Any = pytest.importorskip("infopt_reference.caching")
    model = reference.SentenceTransformer(
        str(caching.embedder.find_model()), device="cpu", local_files_only=True
    )

    def encode(texts: Sequence[str]) -> Array:
        return np.asarray(model.encode(list(texts), show_progress_bar=False))

    pairs = semantic_pairs()
    embedder = caching.MiniLMEmbedder()
    cosines = pair_cosines(embed_questions(embedder.embed_now, texts_of(pairs)), pairs)
    some = pairs[::7]
    plain = pair_cosines(embed_questions(encode, texts_of(some)), some)
    model.double()
    exact = pair_cosines(embed_questions(encode, texts_of(some)), some)
    assert np.abs(cosines[::7] - exact).max() <= 2 * np.abs(plain - exact).max()
    found = separate(pairs, cosines)
    assert found.threshold is None
    assert {category for p, _ in found.closest for category in [p.category]} == {
        "reversed relation"
    }
    (strict,) = sweep(pairs, cosines, [0.95])
    assert strict.precision.interval[1] < 0.5
    assert strict.false_hits[UNRELATED].events == 0
