"""What the gate on endpoints measures in the process of the models."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property

from pytest_infopt import Capability, ModelPair, Sample, remote
from pytest_infopt.engines.base import (
    CountedEngine,
    Engine,
    GreedyEngine,
    TopScoresEngine,
    able,
    completes_chats_only,
)
from pytest_infopt.errors import NotSupportedError

from ..plans import EquivalencePlan
from ..told_rows import Row, answer_rows, positions_of, told_rows, whole_rows
from ..told_tokens import NearTie, document_divergence, judge_tokens, near_tie_of
from .gate import AGREEMENT, KL, MISMATCHES, EndpointPlan


class EndpointMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(EndpointPlan)
        able(pair.candidate, GreedyEngine)
        both = (pair.reference, pair.candidate)
        self._begins_with = "chat" if any(map(completes_chats_only, both)) else "tokenizer"
        if not tells_scores(pair.reference) and not completes_chats_only(pair.reference):
            raise NotSupportedError(f"engine {pair.reference.name!r} lacks: scores, top scores")

    @remote
    def documents(self) -> dict[str, int]:
        """Tokens of the documents by id, in the order of measuring: random, decided by the seed."""
        return {name: len(d.token_ids) for name, d in self._pair.documents_by_id.items()}

    @remote
    def scores(self, document_id: str) -> Sample:
        """What the server finds probable on one document; where chats alone are completed, behind
        it, along the server's answer."""
        started, pair = time.perf_counter(), self._pair
        if not all(map(tells_scores, (pair.candidate, pair.reference))):
            return _without_scores(document_id)
        if self._begins_with == "chat":
            ids, positions, told, own = self._along_answer(document_id)
        else:
            ids = self._document(document_id)
            positions = self._positions(ids)
            told, own = self._both(document_id, ids, positions)
        known = [each for each in zip(positions, told, own, strict=False) if each[1] and each[2]]
        if not known:
            return _without_scores(document_id)
        positions, told, own = (list(each) for each in zip(*known, strict=True))
        mean, worst = document_divergence(
            own, told, positions, ids, self._near_tie, document_id, pair.reference.decode
        )
        return Sample(
            unit=document_id,
            weight=len(positions),
            values={KL.name: mean},
            findings=[worst],
            seconds=time.perf_counter() - started,
        )

    @remote
    def tokens(self, document_id: str) -> Sample:
        """How the server continues one document's beginning."""
        started, pair = time.perf_counter(), self._pair
        tokens = self._continued(document_id)
        if not tokens:
            return Sample(document_id, 1, {}, details={"notes": ["some answers are empty"]})
        whole, behind = self._answered(document_id, tokens)
        if completes_chats_only(pair.reference):
            reference = able(pair.reference, CountedEngine)
            rows = answer_rows(reference, whole, behind, tokens_alone=True)
        else:
            chosen: list[Row] = [{token: 0.0} for token in tokens]
            rows = self._rows_behind(pair.reference, whole, behind, chosen)
        judged = judge_tokens(
            rows, whole, behind[0] + 1, self._near_tie, document_id, pair.reference.decode
        )
        values, not_judged = {AGREEMENT.name: judged.agreement}, dict[str, str]()
        if self._near_tie.gap is None:
            not_judged[MISMATCHES.name] = (
                "the reference is served, too: what the dtype costs it is not known"
            )
        else:
            values[MISMATCHES.name] = float(len(judged.mismatches))
        return Sample(
            unit=document_id,
            weight=len(rows),
            values=values,
            findings=judged.mismatches[:1],
            details={"not_judged": not_judged},
            seconds=time.perf_counter() - started,
        )

    def _document(self, document_id: str) -> list[int]:
        return list(self._pair.documents_by_id[document_id].token_ids)

    def _both(
        self, document_id: str, ids: list[int], positions: list[int]
    ) -> tuple[list[Row], list[Row]]:
        """Rows of candidate and reference; first of the one that tells a few tokens alone."""
        candidate, reference = self._pair.candidate, self._pair.reference
        if Capability.SCORES in candidate.capabilities:
            own = self._told_by_reference(document_id)
            return whole_rows(self._pair, candidate, ids, positions, own), own
        told = self._told(document_id)
        if Capability.SCORES in reference.capabilities:
            return told, whole_rows(self._pair, reference, ids, positions, told)
        return told, self._told_by_reference(document_id)

    def _along_answer(self, document_id: str) -> tuple[list[int], list[int], list[Row], list[Row]]:
        """A text with the candidate's answer, the answer's positions, and rows of candidate and
        reference as far as both tell them."""
        candidate, reference = self._pair.candidate, self._pair.reference
        tokens, told = self._answers(document_id)
        ids, positions = self._answered(document_id, tokens)
        if Capability.SCORES in candidate.capabilities:
            own = self._rows_behind(reference, ids, positions, [])
            return ids, positions, self._rows_behind(candidate, ids, positions, own), own
        return ids, positions, told, self._rows_behind(reference, ids, positions, told)

    @cached_property
    def _answers(self) -> Callable[[str], tuple[list[int], list[Row]]]:
        return self._pair.by_candidate(self._units, self._answer_of)

    def _answer_of(self, engine: Engine, document_id: str) -> tuple[list[int], list[Row]]:
        """An engine's answer, with its rows where it does not see whole distributions."""
        tokens = self._tokens_of(engine, document_id)
        if Capability.SCORES in engine.capabilities:
            return tokens, []
        return tokens, self._rows_behind(engine, *self._answered(document_id, tokens), [])

    @cached_property
    def _told(self) -> Callable[[str], list[Row]]:
        return self._pair.by_candidate(self._units, self._rows_of)

    @cached_property
    def _told_by_reference(self) -> Callable[[str], list[Row]]:
        return self._pair.by_reference(self._units, self._rows_of)

    def _rows_of(self, engine: Engine, document_id: str) -> list[Row]:
        ids = self._document(document_id)
        return told_rows(able(engine, TopScoresEngine), ids, self._positions(ids))

    @cached_property
    def _continued(self) -> Callable[[str], list[int]]:
        units = self._units[: self._plan.prompts]
        return self._pair.by_candidate(units, self._tokens_of)

    def _tokens_of(self, engine: Engine, document_id: str) -> list[int]:
        prompt = self._prompt(document_id)
        return able(engine, GreedyEngine).greedy_tokens(prompt, self._plan.new_tokens)

    @property
    def _units(self) -> list[str]:
        return list(self._pair.documents_by_id)

    def _positions(self, ids: list[int]) -> list[int]:
        """All positions but the last, or a few of them where each costs a request."""
        engines = (self._pair.candidate, self._pair.reference)
        asked = [e for e in engines if Capability.SCORES not in e.capabilities]
        at_once = all(able(engine, TopScoresEngine).scores_texts for engine in asked)
        return positions_of(len(ids), None if at_once else self._plan.positions)

    def _rows_behind(
        self, engine: Engine, ids: list[int], positions: list[int], told: list[Row]
    ) -> list[Row]:
        """An engine's rows along an answer: where it sees whole distributions, of the tokens that
        are told, as far as any are, and of its own most probable one."""
        if Capability.SCORES in engine.capabilities:
            positions = positions[: len(told)]
        if not positions:
            return []
        if completes_chats_only(engine):
            return answer_rows(able(engine, CountedEngine), ids, positions)
        if Capability.SCORES not in engine.capabilities:
            return told_rows(able(engine, TopScoresEngine), ids, positions)
        return whole_rows(self._pair, engine, ids, positions, told)

    def _answered(self, document_id: str, tokens: list[int]) -> tuple[list[int], list[int]]:
        """A document's beginning with an answer behind it, and the positions that predict that."""
        prompt = self._prompt(document_id)
        return [*prompt, *tokens], list(range(len(prompt) - 1, len(prompt) - 1 + len(tokens)))

    def _prompt(self, document_id: str) -> list[int]:
        """The document's beginning, as its text is read."""
        ids, engine = self._document(document_id), self._pair.reference
        beginning = len(engine.encode("", "tokenizer"))
        text = engine.decode(ids[beginning : self._plan.prompt_tokens])
        return engine.encode(text, self._begins_with)

    @cached_property
    def _near_tie(self) -> NearTie:
        return near_tie_of(self._pair, self._pair.release.plan(EquivalencePlan))


def tells_scores(engine: Engine) -> bool:
    """Whether an engine tells any log-probabilities."""
    return bool({Capability.SCORES, Capability.TOP_SCORES} & engine.capabilities)


def _without_scores(document_id: str) -> Sample:
    reason = "the server tells no log-probabilities"
    details = {"not_judged": {KL.name: reason}, "notes": [f"{KL.name}: {reason}"]}
    return Sample(document_id, 1, {}, details=details)
