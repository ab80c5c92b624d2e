"""The shipped questions: pairs of one answer and of two, and streams drawn from them."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infopt_suites.gates.semantic_cache.semantic_pairs import (
    CATEGORIES,
    NEAR_MISSES,
    PARAPHRASE,
    UNRELATED,
    query_stream,
    semantic_intents,
    semantic_pairs,
)

INTENTS = semantic_intents()


def words(question: str) -> Counter[str]:
    return Counter(re.findall(r"[\w.,]+", question.lower()))


def test_no_question_is_asked_twice() -> None:
    questions = chain.from_iterable(
        [*intent.phrasings, *intent.near_misses.values()] for intent in INTENTS
    )
    normalised = [" ".join(words(question).elements()) for question in questions]
    assert len(normalised) > 900
    assert [text for text, count in Counter(normalised).items() if count > 1] == []


def test_every_intent_has_four_phrasings_and_a_near_miss() -> None:
    assert len(INTENTS) >= 100
    assert len({intent.id for intent in INTENTS}) == len(INTENTS)
    for intent in INTENTS:
        assert len(intent.phrasings) == 4
        assert intent.near_misses
        assert set(intent.near_misses) <= set(NEAR_MISSES)
        for question in [*intent.phrasings, *intent.near_misses.values()]:
            assert question == question.strip() != ""


def test_a_swapped_number_changes_what_is_counted() -> None:
    written = r"\b[a-z]?\d[\d,.:]*b?\b|\b(?:first|second|half|am|pm)\b"
    for intent in INTENTS:
        swapped = intent.near_misses.get("number swap")
        if swapped is not None:
            assert re.findall(written, swapped.lower()) != re.findall(
                written, intent.phrasings[0].lower()
            ), swapped


def test_pairs_of_every_category_are_enough_for_an_interval() -> None:
    pairs = semantic_pairs()
    counts = Counter(pair.category for pair in pairs)
    assert set(counts) == set(CATEGORIES)
    # Of no false hit among n pairs, the 95 % interval reaches to 1 − .025^(1/n): 6 % for 60.
    assert min(counts.values()) >= 60
    assert counts[PARAPHRASE] == 6 * len(INTENTS)
    assert counts[UNRELATED] == len(INTENTS)


def test_pairs_are_told_apart_by_id_and_by_text() -> None:
    pairs = semantic_pairs()
    assert len({pair.id for pair in pairs}) == len(pairs)
    assert len({frozenset((pair.query, pair.other)) for pair in pairs}) == len(pairs)


def test_only_phrasings_of_one_intent_share_an_answer() -> None:
    intent_of = {question: intent.id for intent in INTENTS for question in intent.phrasings}
    for pair in semantic_pairs():
        same_intent = intent_of.get(pair.query) == intent_of[pair.other]
        assert pair.same_answer == same_intent == (pair.category == PARAPHRASE)


def test_unrelated_questions_come_from_far_apart() -> None:
    place = {intent.phrasings[0]: number for number, intent in enumerate(INTENTS)}
    unrelated = [pair for pair in semantic_pairs() if pair.category == UNRELATED]
    distances = {abs(place[pair.query] - place[pair.other]) for pair in unrelated}
    assert min(distances) >= len(INTENTS) // 2


@given(st.integers(0, 2**32), st.integers(0, 200), st.floats(0, 3), st.floats(0, 1))
def test_a_stream_is_a_beginning_of_the_longer_one(
    seed: int, length: int, exponent: float, share: float
) -> None:
    stream = query_stream(seed, length, exponent, share)
    assert len(stream) == length
    assert query_stream(seed, length + 7, exponent, share)[:length] == stream


def test_equal_answers_are_those_of_one_intent_or_one_near_miss() -> None:
    stream = query_stream(3, 4000, 0.0, near_miss_share=0.5)
    answers = {query.text: query.answer for query in stream}
    for intent in INTENTS:
        assert {answers[text] for text in intent.phrasings if text in answers} <= {intent.id}
        for category, text in intent.near_misses.items():
            assert answers.get(text, f"{intent.id}/{category}") == f"{intent.id}/{category}"


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_near_misses_come_at_their_share(share: float) -> None:
    stream = query_stream(1, 300, near_miss_share=share)
    assert sum("/" in query.answer for query in stream) == 300 * share


@pytest.mark.parametrize("exponent", [0.0, 1.0, 1.5])
def test_intents_follow_zipfs_law(exponent: float) -> None:
    """The counts of the ranks, the order of which the seed decides, against their expectation."""
    length = 40_000
    stream = query_stream(11, length, exponent, near_miss_share=0.0)
    counts = sorted(Counter(query.answer for query in stream).values(), reverse=True)
    harmonic = math.fsum((rank + 1) ** -exponent for rank in range(len(INTENTS)))
    top = sum((rank + 1) ** -exponent for rank in range(10)) / harmonic
    # Sorting favours the top a little where all are alike: by at most two deviations a count.
    spread = 6 * math.sqrt(length * top * (1 - top)) + 2 * 10 * math.sqrt(length / len(INTENTS))
    assert abs(sum(counts[:10]) - length * top) <= spread


def test_phrasings_and_near_misses_are_drawn_evenly() -> None:
    stream = query_stream(5, 60_000, 0.0, near_miss_share=0.5)
    counts = Counter(query.text for query in stream)
    phrasing = 0.5 / len(INTENTS) / 4
    expected = {text: phrasing for intent in INTENTS for text in intent.phrasings}
    for intent in INTENTS:
        for text in intent.near_misses.values():
            expected[text] = 0.5 / len(INTENTS) / len(intent.near_misses)
    assert math.isclose(math.fsum(expected.values()), 1)
    assert set(counts) <= set(expected)
    for text, share in expected.items():
        # Six deviations: wrong once in a million runs of all these counts, and the seed is fixed.
        assert abs(counts[text] - 60_000 * share) <= 6 * math.sqrt(60_000 * share), text


def test_the_seed_decides_which_intents_are_frequent() -> None:
    most = [
        Counter(query.answer for query in query_stream(seed, 500)).most_common(1)[0][0]
        for seed in range(6)
    ]
    assert len(set(most)) > 1


def test_the_seed_decides_when_a_near_miss_comes() -> None:
    patterns = {
        tuple("/" in query.answer for query in query_stream(seed, 50, near_miss_share=0.5))
        for seed in range(6)
    }
    assert len(patterns) == 6  # two of them agree once in 10^14


def test_a_stream_is_the_same_on_every_python_version() -> None:
    """Recorded once: another stream would be another measurement under the same seed."""
    assert [query.answer for query in query_stream(0, 5, near_miss_share=0.5)] == [
        "miles-km",
        "java-null",
        "fahrenheit/entity swap",
        "discount-20",
        "knitting-stitch",
    ]


@pytest.mark.parametrize(
    ("length", "exponent", "share"),
    [(-1, 1.0, 0.1), (10, -0.5, 0.1), (10, math.nan, 0.1), (10, 1.0, 1.1), (10, 1.0, math.nan)],
)
def test_streams_that_make_no_sense_are_refused(length: int, exponent: float, share: float) -> None:
    with pytest.raises(ValueError, match="length and exponent are at least 0"):
        query_stream(0, length, exponent, share)
