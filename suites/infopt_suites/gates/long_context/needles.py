"""Pass keys hidden in long texts: which of those that the reference finds does a candidate lose?

A sentence with five random digits is put at some depth of a long text, and asked for at its end
(Mohtashami and Jaggi 2023, "Landmark Attention", section 4.2). The text with question and answer is
scored once: the key is found where each of its tokens is the most probable one behind what stands
before it, which is what greedy generation would say.

A key counts where the reference finds it and is sure: each token has a probability of one half at
least, so that no near-tie decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from pytest_infopt import MeasuredTable, Sample
from pytest_infopt.engines.base import Scores
from pytest_infopt.measure import host_logits

from .gate import NEEDLES

_SURE = 0.5  # probability of each token
_DIGITS = 5
_KEY = "\nThe pass key is {key}. Remember it. {key} is the pass key.\n"
_QUESTION = "\nWhat is the pass key? The pass key is"


@dataclass(frozen=True)
class Needle:
    """A text [T] whose last ``answer`` tokens are the key, hidden at ``depth`` of 0…1."""

    token_ids: list[int]
    answer: int
    depth: float


@dataclass(frozen=True)
class Found:
    """A needle's length and depth, and whether reference and candidate found it."""

    tokens: int
    depth: float
    reference: bool
    candidate: bool


def hidden_keys(
    encode: Callable[[str], list[int]],
    text_of: Callable[[int, int], list[int]],
    lengths: Sequence[int],
    count: int,
) -> Iterator[Needle]:
    """``count`` needles in a text of each length, from its beginning to its end; none where a text
    is too short to be more hay than needle. ``text_of`` gives so many tokens of hay."""
    question = encode(_QUESTION)
    for index, length in enumerate(lengths):
        for place in range(count):
            draw = random.Random(f"{index} {place}")
            key = "".join(str(draw.randrange(10)) for _ in range(_DIGITS))
            needle, answer = encode(_KEY.format(key=key)), encode(f" {key}")
            hay = length - len(needle) - len(question) - len(answer)
            if not answer or hay < len(needle):
                continue
            text, depth = text_of(hay, index), (place + 1) / (count + 1)
            cut = round(depth * hay)
            ids = [*text[:cut], *needle, *text[cut:], *question, *answer]
            yield Needle(ids, len(answer), depth)


def finds(scores: Scores, needle: Needle, sure: float = 0.0) -> bool:
    """Whether each token of the key is the most probable, with that probability at least."""
    stop = len(needle.token_ids) - 1  # the row before a token predicts it
    rows = torch.softmax(host_logits(scores.logits(stop - needle.answer, stop)), -1)
    best, tokens = rows.max(-1)
    expected = torch.tensor(needle.token_ids[-needle.answer :])
    return bool((tokens == expected).all()) and float(best.min()) >= sure


def measure_needles(
    needles: Sequence[Needle],
    reference: Callable[[Sequence[int]], Scores],
    candidate: Callable[[Sequence[int]], Scores],
) -> Sample:
    """How many of the keys that the reference finds the candidate loses; without a value where it
    finds none."""
    found = [
        Found(
            len(needle.token_ids),
            needle.depth,
            finds(reference(needle.token_ids), needle, _SURE),
            finds(candidate(needle.token_ids), needle),
        )
        for needle in needles
    ]
    counted = [each for each in found if each.reference]
    details = {"tables": [_table(found).to_json()]} if found else {}
    if not counted:
        reason = f"the reference is sure of none of {len(found)} pass keys; retrieval tells nothing"
        told = {"not_judged": {NEEDLES.name: reason}, "notes": [reason]}
        return Sample("needles", 0, {}, details={**details, **told})
    lost = sum(not each.candidate for each in counted)
    return Sample("needles", len(counted), {NEEDLES.name: float(lost)}, details=details)


def _table(found: Sequence[Found]) -> MeasuredTable:
    rows = tuple(
        (each.tokens, each.depth, _said(each.reference), _said(each.candidate)) for each in found
    )
    return MeasuredTable("pass keys", ("tokens", "depth", "reference", "candidate"), rows)


def _said(found: bool) -> str:
    return "found" if found else "not found"
