"""ContinuousBatchingSuite accepts the reference, on virtual time and in its thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from infopt_reference.batching.continuous import ContinuousBatcher
from infopt_reference.batching.sampling import SamplingParameters
from infopt_reference.batching.scheduler import SchedulerConfig
from infopt_suites.batching import (
    ContinuousBatchingSuite,
    ContinuousLimits,
    GenerationParameters,
    MakeContinuousBatcher,
)


class Reference:
    """`ContinuousBatcher`, as the suites' protocol."""

    def __init__(
        self,
        model: Any,
        limits: ContinuousLimits,
        threaded: bool = False,
        prefix_caching: bool = False,
    ) -> None:
        config = SchedulerConfig(
            num_blocks=limits.num_blocks,
            block_size=limits.block_size,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            prefix_caching=prefix_caching,
        )
        self.batcher = ContinuousBatcher(model, config, threaded=threaded)
        self.requests: dict[str, asyncio.Task[Any]] = {}

    async def start(self) -> None:
        await self.batcher.start()

    async def stop(self) -> None:
        await self.batcher.stop(drain=False)

    async def generate(
        self,
        prompt_ids: Sequence[int],
        parameters: GenerationParameters,
        request_id: str | None = None,
    ) -> Sequence[int]:
        """An id is a task's, which may be cancelled."""
        request = asyncio.ensure_future(self.batcher.submit(prompt_ids, _sampling(parameters)))
        if request_id is not None:
            self.requests[request_id] = request
        try:
            result = await request
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is None or caller.cancelling():
                raise
            raise RuntimeError("aborted") from None
        return result.token_ids

    async def abort(self, request_id: str) -> None:
        if request_id in self.requests:
            self.requests[request_id].cancel()

    async def generate_samples(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters, count: int
    ) -> Sequence[Sequence[int]]:
        """Requests with seeds of their own."""
        seed = parameters.seed
        each = [
            replace(parameters, seed=None if seed is None else 1000 * seed + index)
            for index in range(count)
        ]
        return await asyncio.gather(*(self.generate(prompt_ids, one) for one in each))

    async def stream(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> AsyncGenerator[int]:
        stream: Any = self.batcher.stream(prompt_ids, _sampling(parameters))
        async with aclosing(stream) as tokens:
            async for token in tokens:
                yield token

    @property
    def num_free_blocks(self) -> int:
        return self.batcher.scheduler.num_free_blocks


def _sampling(parameters: GenerationParameters) -> SamplingParameters:
    return SamplingParameters(
        temperature=parameters.temperature,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        seed=parameters.seed,
        max_new_tokens=parameters.max_new_tokens,
        stop_token_ids=parameters.stop_token_ids,
        stop_sequences=parameters.stop_sequences,
    )


class TestReference(ContinuousBatchingSuite):
    capabilities = frozenset(ContinuousBatchingSuite.offers) - {"threaded", "prefixes"}

    @pytest.fixture
    def make_continuous_batcher(self) -> MakeContinuousBatcher:
        return Reference


class TestReferenceWithAPrefixCache(ContinuousBatchingSuite):
    capabilities = frozenset(ContinuousBatchingSuite.offers) - {"threaded"}

    @pytest.fixture
    def make_continuous_batcher(self) -> MakeContinuousBatcher:
        return partial(Reference, prefix_caching=True)


@pytest.mark.slow
class TestReferenceInItsThread(ContinuousBatchingSuite):
    capabilities = frozenset(ContinuousBatchingSuite.offers) - {"idle", "prefixes"}
    virtual = False
    examples = 3

    @pytest.fixture
    def make_continuous_batcher(self) -> MakeContinuousBatcher:
        return partial(Reference, threaded=True)
