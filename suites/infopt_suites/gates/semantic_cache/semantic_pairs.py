"""Questions of users, in pairs of which it is known whether one answer serves both.

What a semantic cache is judged on. ``semantic_pairs.jsonl`` beside this file, written for this
package and under its licence, has an intent a line: four phrasings of one question, and its
near-misses, changed in one respect so that the answer is another: a negation, another entity,
another number, or the relation turned round. From it come

    pairs    all six pairs of an intent's phrasings, which one answer serves; its first phrasing
             with each near-miss, and with the first phrasing of an intent far off in the file,
             which it does not
    streams  questions as they reach a cache in production: a few intents often, most seldom, each
             time in some phrasing, and now and then a near-miss

The mix of pairs is not that of anybody's traffic: near-misses are a quarter of them.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import accumulate, combinations
from pathlib import Path
from types import MappingProxyType

from pytest_infopt.corpus import read_objects, shuffled
from pytest_infopt.errors import ConfigurationError

PARAPHRASE = "paraphrase"
NEAR_MISSES = ("negation", "entity swap", "number swap", "reversed relation")
UNRELATED = "unrelated"
CATEGORIES = (PARAPHRASE, *NEAR_MISSES, UNRELATED)


@dataclass(frozen=True)
class Intent:
    """A question in several phrasings, and its near-misses by category, one each at most."""

    id: str
    phrasings: tuple[str, ...]
    near_misses: Mapping[str, str]


@dataclass(frozen=True)
class SemanticPair:
    """``query`` is asked, ``other`` is what the cache has answered before."""

    id: str
    category: str  # of CATEGORIES, or one of the user's own
    query: str
    other: str
    same_answer: bool


@dataclass(frozen=True)
class StreamQuery:
    """A question as it reaches the cache; equal ``answer`` means that one answer serves both."""

    text: str
    answer: str


@cache
def semantic_intents() -> tuple[Intent, ...]:
    """The shipped intents, in the order of the file."""
    text = (files(__package__) / "semantic_pairs.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.split("\n") if line]
    return tuple(
        Intent(record["id"], tuple(record["phrasings"]), MappingProxyType(record["near_misses"]))
        for record in records
    )


def semantic_pairs() -> list[SemanticPair]:
    """The shipped evaluation set, in a fixed order; ids are unique.

    Of two paraphrases the later is asked, since the earlier is the plainer one.
    """
    intents = semantic_intents()
    far = len(intents) // 2  # neighbours in the file have related topics
    pairs = []
    for number, intent in enumerate(intents):
        first, key = intent.phrasings[0], intent.id
        pairs += [
            SemanticPair(f"{key}/{PARAPHRASE} {i + 1}-{j + 1}", PARAPHRASE, later, earlier, True)
            for (i, earlier), (j, later) in combinations(enumerate(intent.phrasings), 2)
        ]
        pairs += [
            SemanticPair(f"{key}/{category}", category, question, first, False)
            for category, question in intent.near_misses.items()
        ]
        stranger = intents[(number + far) % len(intents)].phrasings[0]
        pairs.append(SemanticPair(f"{key}/{UNRELATED}", UNRELATED, stranger, first, False))
    return pairs


def query_stream(
    seed: int, length: int, exponent: float = 1.0, near_miss_share: float = 0.1
) -> list[StreamQuery]:
    """``length`` questions: intents by Zipf's law, the r-th most frequent in proportion to
    r^−exponent, which rank is whose decided by the seed; phrasings evenly.

    ``near_miss_share`` of them are a near-miss of the intent drawn in place of it.
    Raises ValueError for a negative length or exponent, or a share outside 0…1.
    """
    if length < 0 or not exponent >= 0 or not 0 <= near_miss_share <= 1:
        raise ValueError(
            f"a stream of {length} queries, exponent {exponent}, {near_miss_share} near-misses; "
            "length and exponent are at least 0, the share lies in 0…1"
        )
    by_id = {intent.id: intent for intent in semantic_intents()}
    ranked = [by_id[name] for name in shuffled(by_id, seed)]
    weights = list(accumulate((rank + 1) ** -exponent for rank in range(len(ranked))))
    generator = random.Random(seed)
    stream = []
    for _ in range(length):
        drawn = bisect_right(weights, generator.random() * weights[-1])
        intent = ranked[min(drawn, len(ranked) - 1)]  # a product may round up to its last weight
        if generator.random() < near_miss_share:
            category = _pick(list(intent.near_misses), generator)
            question = intent.near_misses[category]
            stream.append(StreamQuery(question, f"{intent.id}/{category}"))
        else:
            stream.append(StreamQuery(_pick(intent.phrasings, generator), intent.id))
    return stream


def _pick(choices: Sequence[str], generator: random.Random) -> str:
    """One of them by a single `random.Random.random`, whose sequence for a seed never changes."""
    return choices[int(generator.random() * len(choices))]


def read_pairs(path: Path) -> list[SemanticPair]:
    """A user's own pairs: JSONL with ``query``, ``other``, ``same_answer`` and maybe ``category``.

    Raises ConfigurationError naming the file, and the line that does not fit.
    """
    pairs = []
    for number, record in read_objects(path):
        try:
            query, other, same = record["query"], record["other"], record["same_answer"]
            if not (isinstance(query, str) and isinstance(other, str) and isinstance(same, bool)):
                raise TypeError("query and other are texts, same_answer is true or false")
        except (KeyError, TypeError) as error:
            raise ConfigurationError(
                f"{path}:{number}: no pair ({error!r}); write "
                '{"query": "…", "other": "…", "same_answer": true}'
            ) from error
        category = record.get("category", "same answer" if same else "another answer")
        pairs.append(SemanticPair(f"{path.stem}:{number}", str(category), query, other, same))
    if not pairs:
        raise ConfigurationError(f"{path}: holds no pairs")
    return pairs
