"""What the gate on prefix caches measures in the process of the models."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import Engine, WholeLogitsEngine, able
from pytest_infopt.errors import NotSupportedError
from pytest_infopt.measure import dtype_error_of, dtype_named

from ..chat_server import ChatServer
from ..models_answers import ModelsAnswers, ServedEngine
from ..plans import CachesPlan, EquivalencePlan, LatencyPlan
from ..served_table import served_table
from .prefix_server import PagedEngine, PrefixServer
from .prompts import measure_prefix_prompt, shared_prompt_table
from .served_chats import ChatTexts, measure_served_chat


@dataclass(frozen=True)
class _Chats:
    server: ChatServer
    model: ModelsAnswers


class PrefixCacheMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(CachesPlan)
        self._prompt_plan = pair.release.plan(EquivalencePlan)
        self._served: _Chats | None = None

    @remote
    def prompt(self, index: int) -> Sample:
        """The index-th prompt behind a prefix cache, from cold to evicted."""
        prompts = self._pair.prompt_set(self._prompt_plan)
        sample = measure_prefix_prompt(
            able(self._pair.candidate, WholeLogitsEngine),
            self._server,
            prompts.oracle[index],
            prompts.plain[index],
            prompts.prompts[index],
            f"prompt-{index}",
            lambda: able(self._pair.plain, WholeLogitsEngine),
            lambda blocks, size: self._server_of(self._pair.plain, blocks, size),
            lambda: self._pair.length_effect(self._prompt_plan),
        )
        return self._pair.noted(sample)

    @remote
    def shared_prompt_table(self) -> dict[str, Any]:
        """What a prefix cache saves of requests that share a system prompt."""
        plan, window = self._plan, self._pair.candidate.context_window
        question_tokens = min(plan.question_tokens, window // 2)
        text = cycle(self._pair.token_stream)
        system = list(islice(text, min(plan.system_tokens, window - question_tokens)))
        questions = [list(islice(text, question_tokens)) for _ in range(plan.requests)]
        return shared_prompt_table(self._server, system, questions, plan.block_size).to_json()

    @remote
    def served_chat(self, index: int) -> Sample:
        """The index-th chat behind system prompts that the candidate's server has never seen, by
        every way."""
        chats = self._chats()
        max_tokens = self._pair.release.plan(LatencyPlan).new_tokens
        return measure_served_chat(
            chats.server, chats.model, self._texts(index), max_tokens, f"chat-{index}"
        )

    def _texts(self, index: int) -> ChatTexts:
        """The corpus's text; numbers drawn by this process stand before the system prompts."""
        plan, candidate = self._plan, able(self._pair.candidate, ServedEngine)
        stream, count = self._pair.token_stream, plan.question_tokens
        questions = [
            candidate.decode(list(islice(cycle(stream), start, start + count)))
            for start in range(index * count, (index + 3) * count, count)
        ]
        system = candidate.decode(list(islice(cycle(stream), plan.system_tokens)))
        first, second = (f"{secrets.token_hex(8)} {system}" for _ in range(2))
        return ChatTexts(first, second, questions)

    def _chats(self) -> _Chats:
        """The server, asked once before anything is timed, and the model's own answers."""
        if self._served is None:
            pair, prompts = self._pair, self._pair.prompt_set(self._prompt_plan)
            assert pair.source.server is not None
            candidate = able(pair.candidate, ServedEngine)
            dtype_error = dtype_error_of(
                prompts.oracle[0].double(), prompts.plain[0], dtype_named(candidate.dtype)
            )
            max_tokens = pair.release.plan(LatencyPlan).new_tokens
            self._served = _Chats(
                ChatServer(pair.source.server),
                ModelsAnswers(candidate, dtype_error, max_tokens),
            )
            self._served.server.answer([{"role": "user", "content": secrets.token_hex(8)}], 2)
        return self._served

    @remote
    def served_table(self, samples: list[Sample]) -> dict[str, Any]:
        """The server's chats as a table."""
        return served_table(samples).to_json()

    def _server(self, num_blocks: int, block_size: int) -> PrefixServer:
        return self._server_of(self._pair.candidate, num_blocks, block_size)

    def _server_of(self, engine: Engine, num_blocks: int, block_size: int) -> PrefixServer:
        try:
            return PrefixServer(able(engine, PagedEngine), num_blocks, block_size)
        except ValueError as error:
            name = self._pair.source.name
            raise NotSupportedError(f"prefix cache of {name}: {error}") from error
