"""What the gate on a server's model measures in the process of the models."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property

from pytest_infopt import Capability, ModelPair, Sample, Side, remote
from pytest_infopt.axes.borders import border_prompts
from pytest_infopt.engines.base import (
    Engine,
    GreedyEngine,
    TopScoresEngine,
    WholeLogitsEngine,
    able,
    completes_chats_only,
)
from pytest_infopt.errors import NotSupportedError
from pytest_infopt.measure import best_token

from ..told_rows import Row, told_rows, whole_rows
from ..told_tokens import NearTie, document_divergence, judge_tokens
from .gate import CHANGES, DISTANCE, SameModelPlan

_STEP = 3  # tokens by which chats of one document differ, where each takes a pass
_HALVES = ("bfloat16", "float16")
_TOLD = 2.0**-23  # of a number: servers tell single precision


class SameModelMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(SameModelPlan)
        self._opened = ExitStack()
        if not {Capability.SCORES, Capability.MODULES} <= pair.reference.capabilities:
            raise NotSupportedError(f"engine {pair.reference.name!r} lacks: scores, modules")

    @remote
    def tells_log_probabilities(self) -> bool:
        return Capability.TOP_SCORES in self._pair.candidate.capabilities

    @remote
    def prompts(self) -> int:
        """Documents whose beginnings the server is asked to continue."""
        return min(len(self._pair.documents_by_id), self._plan.requests)

    @remote
    def borders(self) -> int:
        """Border inputs that there are."""
        return len(self._borders)

    @remote
    def first_token(self, index: int) -> Sample:
        """How far the server's log-probabilities of one token are from the reference's."""
        started, unit = time.perf_counter(), list(self._pair.documents_by_id)[index]
        ids = self._beginning(unit)
        (told,) = told_rows(able(self._pair.candidate, TopScoresEngine), ids, [len(ids) - 1])
        exact, plain = (self._row(engine, ids, told) for engine in (self._exact, self._plain))
        rounding = _TOLD * max(map(abs, exact.values()))
        server, granted = (rounding + _distance(row, exact, told) for row in (told, plain))
        whole, decode = [*ids, best_token(exact)], self._pair.reference.decode
        _, finding = document_divergence(
            [exact], [told], [len(ids) - 1], whole, NearTie(None), unit, decode
        )
        return Sample(
            unit=unit,
            weight=1,
            values={DISTANCE.name: math.log(server / granted)},
            findings=[finding],
            seconds=time.perf_counter() - started,
        )

    @remote
    def untold(self, index: int) -> Sample:
        """That the server tells nothing whose distance could be judged."""
        reason = "the server tells no log-probabilities"
        return Sample("untold", 1, {}, details={"not_judged": {DISTANCE.name: reason}})

    @remote
    def border_input(self, index: int) -> Sample:
        """Whether the server's token behind one border input is another than the reference's."""
        started, ids, unit = time.perf_counter(), self._borders[index], f"border-{index}"
        tokens = able(self._pair.candidate, GreedyEngine).greedy_tokens(ids, 1)
        if not tokens:
            return Sample(unit, 1, {}, details={"notes": ["some answers are empty"]})
        row = self._row(self._exact, ids, {tokens[0]: 0.0})
        changed = best_token(row) != tokens[0]
        judged = judge_tokens(
            [row], [*ids, tokens[0]], len(ids), NearTie(0.0), unit, self._pair.reference.decode
        )
        return Sample(
            unit=unit,
            weight=1,
            values={CHANGES.name: float(changed)},
            findings=judged.mismatches,
            seconds=time.perf_counter() - started,
        )

    def _row(self, engine: Engine, ids: list[int], told: Row) -> Row:
        (row,) = whole_rows(self._pair, engine, ids, [len(ids) - 1], [told])
        return row

    def _beginning(self, document_id: str) -> list[int]:
        """The document's beginning, as its text is read."""
        return self._read(self._pair.documents_by_id[document_id].token_ids)

    def _read(self, token_ids: Sequence[int], most: int | None = None) -> list[int]:
        """A prompt of the first tokens' text: ``most`` of them, or as many as are asked for."""
        engine, begins_with = self._pair.reference, "chat" if self._chats else "tokenizer"
        ids = token_ids[len(self._special) : most or self._plan.prompt_tokens]
        return engine.encode(engine.decode(ids), begins_with)

    @property
    def _chats(self) -> bool:
        return completes_chats_only(self._pair.candidate)

    @cached_property
    def _borders(self) -> list[list[int]]:
        """The inputs with the closest choices, of those that are read as they are written. Of chats
        no beginning is a chat, so some are made of each document."""
        known = list(self._pair.documents_by_id.values())[: self._plan.documents]
        exact, plain = (
            _side(able(e, WholeLogitsEngine), self._chats) for e in (self._exact, self._plain)
        )
        lengths = range(_STEP, self._plan.prompt_tokens + 1, _STEP) if self._chats else [None]
        texts = [self._read(document.token_ids, most) for document in known for most in lengths]
        found = border_prompts(exact, plain, texts, 4 * self._plan.requests)
        inputs = [[int(token) for token in ids] for ids in found]
        if self._chats:
            return inputs[: self._plan.requests]
        return [ids for ids in inputs if self._is_read_back(ids)][: self._plan.requests]

    def _is_read_back(self, ids: list[int]) -> bool:
        engine, special = self._pair.candidate, len(self._special)
        if len(ids) <= special:
            return False
        return engine.encode(engine.decode(ids[special:]), "tokenizer") == ids

    @cached_property
    def _special(self) -> list[int]:
        return self._pair.reference.encode("", "tokenizer")

    @cached_property
    def _exact(self) -> Engine:
        """The reference's weights in float32."""
        return self._opened.enter_context(self._pair.reference_in("float32"))

    @cached_property
    def _plain(self) -> Engine:
        """The reference's weights in the server's 16 bit, in bfloat16 where it has more: what is
        finer than that is rounding, and not another model."""
        dtype = self._pair.candidate.dtype
        dtype = dtype if dtype in _HALVES else _HALVES[0]
        return self._opened.enter_context(self._pair.reference_in(dtype))


def _side(engine: WholeLogitsEngine, last_alone: bool) -> Side:
    first = -1 if last_alone else 0
    return Side(lambda prompt: engine.full_logits([int(token) for token in prompt])[first:])


def _distance(row: Row, exact: Row, told: Row) -> float:
    """Mean distance of the log-probabilities that the server tells."""
    return statistics.fmean(abs(row[token] - exact[token]) for token in told)
