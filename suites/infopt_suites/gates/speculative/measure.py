"""What the gate on speculative decoding measures in the process of the models."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pytest_infopt import Draft, MeasuredTable, ModelPair, Plot, Sample, remote
from pytest_infopt.engines.base import (
    BatchEngine,
    Capability,
    Drafting,
    Engine,
    KVSizeEngine,
    WeighedEngine,
    able,
)
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.measure import SelfComparison, dtype_error_of, dtype_named, warm_up

from ..chat_server import ChatServer
from ..models_answers import ModelsAnswers, ServedEngine
from ..plans import EquivalencePlan
from .drafted_prompts import Decoding, SpeculatingEngine, measure_drafted_prompt
from .gate import BYTES, SpeculativePlan
from .lookahead import lookahead_table, measure_pass_costs
from .served_drafts import measure_served_draft


@dataclass(frozen=True)
class _Chats:
    server: ChatServer
    model: ModelsAnswers


class SpeculativeMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(SpeculativePlan)
        self._served: _Chats | None = None

    @remote
    def warm_up(self) -> None:
        """Untimed requests, with the draft and without."""
        prompt = self._prompts[0]
        for drafting in (None, self._drafting):
            way = Decoding(self._engine, drafting)
            warm_up(way, prompt, self._plan.new_tokens, self._plan.warmup)

    @remote
    def prompt(self, index: int, drafted_first: bool) -> Sample:
        """The index-th prompt, decoded with the draft and without."""
        pair, equivalence = self._pair, self._pair.release.plan(EquivalencePlan)
        known = pair.prompt_set(equivalence)
        place, unit = index % len(known.prompts), f"prompt-{index}"
        found = SelfComparison(
            self._engine,
            known.oracle[place],
            known.plain[place],
            unit,
            1,
            lambda: pair.length_effect(equivalence),
        )
        return pair.noted(
            measure_drafted_prompt(
                self._engine,
                self._drafting,
                self._prompts[index],
                self._plan.new_tokens,
                found,
                lambda: able(pair.plain, SpeculatingEngine),
                drafted_first,
                unit,
            )
        )

    @remote
    def added_bytes(self) -> Sample:
        """What the draft weighs."""
        return Sample("draft", 1, {BYTES.name: self._bytes_of(self._drafting.engine)})

    @remote
    def reference_bytes(self) -> float:
        """What the reference weighs, counted alike."""
        return self._bytes_of(self._pair.reference)

    @remote
    def served_prompt(self, index: int) -> Sample:
        """The index-th prompt as a chat with the candidate's server."""
        chats = self._chats()
        prompt = self._pair.request(self._plan.tokens, index)
        text = able(self._pair.candidate, ServedEngine).decode(prompt)
        return measure_served_draft(
            chats.server,
            chats.model,
            [{"role": "user", "content": text}],
            self._plan.new_tokens,
            f"chat-{index}",
        )

    @remote
    def tables(self, samples: list[Sample], timed: bool) -> list[dict[str, Any]]:
        """Tokens a pass, and what a token took, with the draft and without; and, from times of
        passes, what other numbers of drafted tokens would bring."""
        tables = [drafted_table(samples, self._draft)]
        if timed:
            engine, draft = able(self._pair.candidate, BatchEngine), self._drafting.engine
            drafting = None if draft is None else able(draft, BatchEngine)
            costs = measure_pass_costs(engine, drafting, self._plan.tokens)
            tables.append(lookahead_table(costs, samples, self._draft.num_speculative_tokens))
        return [table.to_json() for table in tables]

    @property
    def _engine(self) -> SpeculatingEngine:
        return able(self._pair.candidate, SpeculatingEngine)

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return self._pair.prompts_of(self._plan.prompts, self._plan.tokens)

    @property
    def _draft(self) -> Draft:
        name = self._pair.source.name
        (draft,) = (c.draft for c in self._pair.release.candidates if c.name == name)
        assert draft is not None  # without one, the gate is not run
        return draft

    @cached_property
    def _drafting(self) -> Drafting:
        draft = self._draft
        engine = None if draft.model is None else load_engine(draft.model)
        return Drafting(engine, draft.num_speculative_tokens)

    def _bytes_of(self, engine: Engine | None) -> float:
        if engine is None:
            return 0.0
        footprint = able(engine, WeighedEngine).memory()
        held = 0
        if Capability.KV_SIZE in engine.capabilities:
            held = able(engine, KVSizeEngine).kv_cache_bytes(self._plan.request_tokens)
        return float(footprint.weight_bytes + footprint.buffer_bytes + held)

    def _chats(self) -> _Chats:
        if self._served is None:
            pair = self._pair
            assert pair.source.server is not None
            prompts = pair.prompt_set(pair.release.plan(EquivalencePlan))
            candidate = able(pair.candidate, ServedEngine)
            dtype_error = dtype_error_of(
                prompts.oracle[0].double(), prompts.plain[0], dtype_named(candidate.dtype)
            )
            self._served = _Chats(
                ChatServer(pair.source.server),
                ModelsAnswers(candidate, dtype_error, self._plan.new_tokens),
            )
        return self._served


def drafted_table(samples: list[Sample], draft: Draft) -> MeasuredTable:
    """Both ways side by side; what was asked of the draft, and what came."""
    alone, drafted = zip(*(sample.details["seconds"] for sample in samples), strict=True)
    tokens, passes, proposed, accepted = (
        sum(sample.details[name] for sample in samples)
        for name in ("tokens", "passes", "drafted", "accepted")
    )
    return MeasuredTable(
        "speculative decoding",
        ("", "tokens a pass", "median time of a prompt, ms"),
        (
            ("without the draft", 1.0, 1000 * statistics.median(alone)),
            ("with the draft", tokens / passes, 1000 * statistics.median(drafted)),
        ),
        (
            f"draft {draft.name}: {draft.num_speculative_tokens} tokens a pass requested, "
            f"{proposed / passes:.2f} observed; {proposed} drafted in all, {accepted} accepted",
        ),
        Plot("", ("median time of a prompt, ms",), "time of a prompt, ms", "bar", ordered=True),
    )
