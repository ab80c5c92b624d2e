"""A server's answers, judged: by its own first ones, and by the tokens of its model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from pytest_infopt import Capability, ModelPair, TokenFinding
from pytest_infopt.engines.base import (
    CountedEngine,
    Engine,
    TopScoresEngine,
    able,
    completes_chats_only,
)

from ..plans import EquivalencePlan
from ..told_rows import Row, told_rows, whole_rows
from ..told_tokens import NearTie, judge_tokens, near_tie_of, parting, row_change
from .gate import CHANGES, LOG_PROBS, MISMATCHES
from .ways import Asked, equal_tokens, repetitions


@dataclass
class JudgedAnswers:
    """The metrics' values, what shows them, and why others are not known."""

    values: dict[str, float] = field(default_factory=dict)
    findings: list[TokenFinding] = field(default_factory=list)
    not_judged: dict[str, str] = field(default_factory=dict)


class ServedAnswers:
    """Judges the answers of ``server``. Its model is the reference, or, in process, the candidate
    that names the server: their weights are the same."""

    def __init__(self, pair: ModelPair, server: CountedEngine) -> None:
        self._pair = pair
        self._server = server
        self._decode = server.decode

    def judged(self, asked: Sequence[Asked], unit: str) -> JudgedAnswers:
        """All that was asked in one sample."""
        found = JudgedAnswers()
        pairs = repetitions(asked)
        changes = self._changes(pairs, unit)
        if changes is not None:
            found.values[CHANGES.name] = float(len(changes))
            found.findings += changes
        if self._unlike:
            found.not_judged[MISMATCHES.name] = self._unlike
        else:
            others = {each.whole: each for each in asked}  # many are the same
            unlike = {whole: self._wrong(each, unit) for whole, each in others.items()}
            wrong = [finding for each in asked for finding in unlike[each.whole]]
            found.values[MISMATCHES.name] = float(len(wrong))
            found.findings += wrong
        self._take_log_probs(found, pairs, unit)
        return found

    def _take_log_probs(
        self, found: JudgedAnswers, pairs: Sequence[tuple[Asked, Asked]], unit: str
    ) -> None:
        """By how much log-probabilities of repetitions leave the first ones, behind equal tokens.

        A token's log-probability is its logit less the logarithm of their sum: two runs may move it
        by as much as the gap of two tokens.
        """
        places = [place for pair in pairs for place in _places(*pair)]
        if not places:
            found.not_judged[LOG_PROBS.name] = "the server tells no log-probabilities"
        elif self._near_tie.gap is None:
            found.not_judged[LOG_PROBS.name] = "what two runs may differ by is not known"
        else:
            context, first, again = max(places, key=lambda place: _distance(*place[1:]))
            moved = _distance(first, again) / self._near_tie.gap
            found.values[LOG_PROBS.name] = moved
            if moved > 1:
                found.findings.append(row_change(context, first, again, unit, self._decode))

    def _changes(
        self, pairs: Sequence[tuple[Asked, Asked]], unit: str
    ) -> list[TokenFinding] | None:
        """First tokens at which repetitions leave the first answer and may not; None where some do
        and nothing tells whether they may."""
        found = list[TokenFinding]()
        for first, again in pairs:
            own, other = first.answer.token_ids, again.answer.token_ids
            place = equal_tokens(own, other)
            if place == min(len(own), len(other)):
                continue  # the same, or one that ended where the other goes on
            context, tokens = [*first.prompt, *own[:place]], (own[place], other[place])
            row = self._row(first, place, context, tokens)
            if row is None:
                return None
            change = parting(row, context, tokens, self._near_tie, unit, self._decode)
            found += [change] if change else []
        return found

    def _row(
        self, first: Asked, place: int, context: list[int], tokens: tuple[int, int]
    ) -> Row | None:
        """Two tokens' log-probabilities by the server itself, or by a model that is as fine."""
        rows = first.answer.rows
        if rows and rows[place]:
            row = rows[place]
        elif Capability.TOP_SCORES in self._server.capabilities and (
            place == 0 or not completes_chats_only(self._server)
        ):
            (row,) = told_rows(able(self._server, TopScoresEngine), context, [len(context) - 1])
        elif self._unlike:
            return None
        else:
            return self._model_rows(context, [len(context) - 1], tokens)[0]
        least = min(row.values())
        return {token: row.get(token, least) for token in tokens}

    def _wrong(self, asked: Asked, unit: str) -> list[TokenFinding]:
        """Tokens of one answer that are not the model's."""
        tokens = asked.answer.token_ids
        if not tokens:
            return []
        whole = [*asked.prompt, *tokens]
        behind = list(range(len(asked.prompt) - 1, len(whole) - 1))
        rows = self._model_rows(whole, behind, tokens)
        return judge_tokens(
            rows, whole, len(asked.prompt), self._near_tie, unit, self._decode
        ).mismatches

    def _model_rows(
        self, context: list[int], positions: list[int], tokens: Sequence[int]
    ) -> list[Row]:
        chosen: list[Row] = [dict.fromkeys(tokens, math.nan) for _ in positions]
        return whole_rows(self._pair, self._model, context, positions, chosen)

    @property
    def _model(self) -> Engine:
        own = self._pair.candidate
        return self._pair.reference if own is self._server else own

    @cached_property
    def _unlike(self) -> str:
        """Why the server's tokens need not be the model's, or the empty string."""
        if self._model is self._pair.reference and not self._pair.precision.lossless:
            return "quantized weights have greedy tokens of their own"
        if self._near_tie.gap is None:
            return "the reference is served, too: its near-ties are not known"
        return ""

    @cached_property
    def _near_tie(self) -> NearTie:
        return near_tie_of(self._pair, self._pair.release.plan(EquivalencePlan))


def _places(first: Asked, again: Asked) -> list[tuple[list[int], Row, Row]]:
    """What is told at each position behind equal tokens: the context, and both rows."""
    one, other = first.answer, again.answer
    same = equal_tokens(one.token_ids, other.token_ids)
    rows = list(zip(one.rows, other.rows, strict=False))[: same + 1]
    return [
        ([*first.prompt, *one.token_ids[:place]], own, theirs)
        for place, (own, theirs) in enumerate(rows)
        if own and theirs
    ]


def _distance(one: Row, other: Row) -> float:
    """The most nats by which a token lies apart in two rows. A token that one of them does not tell
    has there what its last one has, at most."""
    both = max((_apart(one[token], other[token]) for token in one.keys() & other.keys()), default=0)
    alone = (
        row[token] - min(rest.values())
        for row, rest in ((one, other), (other, one))
        for token in row.keys() - rest.keys()
    )
    return max(both, max(alone, default=0))


def _apart(one: float, other: float) -> float:
    return 0.0 if one == other else abs(one - other)  # both may be minus infinity
