"""What the gate on a server's prefix cache measures in the process of the models."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pytest_infopt import Capability, ModelPair, Sample, TokenFinding, remote
from pytest_infopt.engines.base import CountedEngine, TopScoresEngine, able

from ..plans import EquivalencePlan
from ..served_table import served_table
from ..told_rows import Row, told_rows, whole_rows
from ..told_tokens import NearTie, judge_tokens, near_tie_of, parting
from .gate import CHANGES, MISMATCHES, SAVED, UNSHARED, ServedPrefixPlan
from .ways import Asked, Beginnings, Prompts, repetitions

_DRAWS = 64  # of a beginning, until its text is read as its tokens


class ServedPrefixMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(ServedPrefixPlan)
        self._server = able(pair.candidate, CountedEngine)
        self._asked_before = Beginnings()

    @remote
    def prompt(self, index: int) -> Sample:
        """The index-th prompt by every way: cold, warm, partly warm, behind another beginning, and
        again."""
        started, unit = time.perf_counter(), f"prompt-{index}"
        prompts = self._prompts(index)
        asked = [self._ask(way, ids, prompts.drawn) for way, ids in prompts.ways()]
        changes = self._changes(asked, unit)
        wrong = [found for each in asked for found in self._wrong(each, unit)]
        values = {UNSHARED.name: float(sum(each.unshared for each in asked))}
        if changes is not None:
            values[CHANGES.name] = float(len(changes))
        if not self._unlike:
            values[MISMATCHES.name] = float(len(wrong))
        warm = next(each for each in asked if each.way == "warm")
        if warm.answer.cached_tokens is not None:
            values[SAVED.name] = warm.answer.cached_tokens / len(warm.prompt)
        return Sample(
            unit=unit,
            weight=len(warm.prompt),
            values=values,
            findings=[*(changes or ()), *wrong][:1],
            details={
                "served": [each.row for each in asked],
                "not_judged": {MISMATCHES.name: self._unlike} if self._unlike else {},
            },
            seconds=time.perf_counter() - started,
        )

    @remote
    def served_table(self, samples: list[Sample]) -> dict[str, Any]:
        """The server's prompts as a table."""
        return served_table(samples).to_json()

    def _ask(self, way: str, ids: list[int], drawn: int) -> Asked:
        shared = max(drawn, self._asked_before.shared_with(ids))
        answer = self._server.counted_answer(ids, self._plan.new_tokens)
        self._asked_before.add(ids)
        return Asked(way, ids, answer, shared)

    def _changes(self, asked: list[Asked], unit: str) -> list[TokenFinding] | None:
        """First tokens at which repetitions leave the first answer and may not; None where some do
        and nothing tells whether they may."""
        found = list[TokenFinding]()
        for first, again in repetitions(asked):
            own, other = first.answer.token_ids, again.answer.token_ids
            pairs = enumerate(zip(own, other, strict=False))
            place = next((i for i, (a, b) in pairs if a != b), None)
            if place is None:
                continue  # the same, or one that ended where the other goes on
            context = [*first.prompt, *own[:place]]
            tokens = own[place], other[place]
            row = self._row(context, tokens)
            if row is None:
                return None
            change = parting(row, context, tokens, self._near_tie, unit, self._decode)
            found += [change] if change else []
        return found

    def _row(self, context: list[int], tokens: Sequence[int]) -> Row | None:
        """Two tokens' log-probabilities by the server itself, or by a reference that is as fine."""
        pair, behind = self._pair, [len(context) - 1]
        if Capability.TOP_SCORES in pair.candidate.capabilities:
            (row,) = told_rows(able(pair.candidate, TopScoresEngine), context, behind)
            least = min(row.values())
            return {token: row.get(token, least) for token in tokens}
        if self._unlike:
            return None
        return self._reference_rows(context, behind, tokens)[0]

    def _reference_rows(
        self, context: list[int], positions: list[int], tokens: Sequence[int]
    ) -> list[Row]:
        chosen: list[Row] = [dict.fromkeys(tokens, math.nan) for _ in positions]
        return whole_rows(self._pair, self._pair.reference, context, positions, chosen)

    def _wrong(self, asked: Asked, unit: str) -> list[TokenFinding]:
        """Tokens of one answer that are not the reference's."""
        tokens = asked.answer.token_ids
        if self._unlike or not tokens:
            return []
        whole = [*asked.prompt, *tokens]
        behind = list(range(len(asked.prompt) - 1, len(whole) - 1))
        rows = self._reference_rows(whole, behind, tokens)
        return judge_tokens(
            rows, whole, len(asked.prompt), self._near_tie, unit, self._decode
        ).mismatches

    def _prompts(self, index: int) -> Prompts:
        """The corpus's text behind beginnings that are drawn here, so that no server has them."""
        length = min(self._plan.prompt_tokens, self._room)
        drawn = length // 8
        body = self._pair.text_of(length - drawn, index)
        other = self._pair.text_of(length - drawn, index + 1)
        return Prompts(self._beginning(drawn), self._beginning(drawn), body, other)

    def _beginning(self, count: int) -> list[int]:
        """Tokens of the corpus in an order of their own, whose text is read as them."""
        candidate, special = self._pair.candidate, self._pair.candidate.encode("", "tokenizer")
        drawn: list[int] = []
        for _ in range(_DRAWS):
            drawn = [*special, *(secrets.choice(self._words) for _ in range(count - len(special)))]
            if candidate.encode(candidate.decode(drawn[len(special) :]), "tokenizer") == drawn:
                break
        return drawn

    @property
    def _room(self) -> int:
        return self._pair.candidate.context_window - self._plan.new_tokens

    @cached_property
    def _words(self) -> list[int]:
        """Tokens that stand alone: two of a kind are read as two."""
        read, decode = self._pair.candidate.encode, self._decode
        known = sorted(set(self._pair.token_stream))
        return [token for token in known if read(decode([token] * 2)) == [token] * 2] or known

    @cached_property
    def _unlike(self) -> str:
        """Why the server's tokens need not be the reference's, or the empty string."""
        if not self._pair.precision.lossless:
            return "quantized weights have greedy tokens of their own"
        if self._near_tie.gap is None:
            return "the reference is served, too: its near-ties are not known"
        return ""

    @cached_property
    def _near_tie(self) -> NearTie:
        return near_tie_of(self._pair, self._pair.release.plan(EquivalencePlan))

    @property
    def _decode(self) -> Any:
        return self._pair.reference.decode
