"""ContinuousBatchingSuite accepts the reference, on virtual time and in its thread."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
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

    def __init__(self, model: Any, limits: ContinuousLimits, threaded: bool = False) -> None:
        config = SchedulerConfig(
            num_blocks=limits.num_blocks,
            block_size=limits.block_size,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
        )
        self.batcher = ContinuousBatcher(model, config, threaded=threaded)

    async def start(self) -> None:
        await self.batcher.start()

    async def stop(self) -> None:
        await self.batcher.stop(drain=False)

    async def generate(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> Sequence[int]:
        result = await self.batcher.submit(prompt_ids, _sampling(parameters))
        return result.token_ids

    async def stream(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> AsyncGenerator[int]:
        stream: Any = self.batcher.stream(prompt_ids, _sampling(parameters))
        async with aclosing(stream) as tokens:
            async for token in tokens:
                yield token

    @property
    def num_free_blocks(self) -> int:
        return self.batcher.scheduler.blocks.num_free_blocks


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
    capabilities = frozenset(ContinuousBatchingSuite.offers)

    @pytest.fixture
    def make_continuous_batcher(self) -> MakeContinuousBatcher:
        return Reference


@pytest.mark.slow
class TestReferenceInItsThread(ContinuousBatchingSuite):
    capabilities = frozenset(ContinuousBatchingSuite.offers) - {"idle"}
    virtual = False
    examples = 3

    @pytest.fixture
    def make_continuous_batcher(self) -> MakeContinuousBatcher:
        return partial(Reference, threaded=True)
