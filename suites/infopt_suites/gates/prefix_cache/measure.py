"""What the gate on prefix caches measures in the process of the models."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import Engine, WholeLogitsEngine, able
from pytest_infopt.errors import NotSupportedError

from ..plans import CachesPlan, EquivalencePlan
from .prefix_server import PagedEngine, PrefixServer
from .prompts import measure_prefix_prompt, shared_prompt_table


class PrefixCacheMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(CachesPlan)
        self._prompt_plan = pair.release.plan(EquivalencePlan)

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

    def _server(self, num_blocks: int, block_size: int) -> PrefixServer:
        return self._server_of(self._pair.candidate, num_blocks, block_size)

    def _server_of(self, engine: Engine, num_blocks: int, block_size: int) -> PrefixServer:
        try:
            return PrefixServer(able(engine, PagedEngine), num_blocks, block_size)
        except ValueError as error:
            name = self._pair.source.name
            raise NotSupportedError(f"prefix cache of {name}: {error}") from error
