"""transformers' continuous batching (`ContinuousBatchingManager`) through ContinuousBatchingSuite.

It computes in a thread of its own, so the real clock runs. Its requests have no seeds.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from infopt_suites.batching import (
    ContinuousBatchingSuite,
    ContinuousLimits,
    GenerationParameters,
    MakeContinuousBatcher,
)
from transformers import ContinuousBatchingConfig, GenerationConfig


class OfTransformers:
    """A `ContinuousBatchingManager`, as the suites' protocol."""

    def __init__(self, model: Any, limits: ContinuousLimits) -> None:
        self.limits = limits
        self.manager: Any = model.init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=-1),
            ContinuousBatchingConfig(
                page_size=limits.block_size,
                num_blocks=limits.num_blocks,
                max_batch_tokens=limits.max_num_batched_tokens,
                max_requests_per_batch=limits.max_num_seqs,
                max_memory_percent=0.9,
                max_blocks_per_request=0,
                auto_switch_to_flash=False,
            ),
        )
        self.ids = itertools.count()

    async def start(self) -> None:
        self.manager.start()
        while self.manager.batch_processor is None:
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        await asyncio.to_thread(self.manager.stop, hard_stop=True)
        self.manager.destroy()

    async def generate(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> Sequence[int]:
        tokens: list[int] = []
        async for found in self._outputs(prompt_ids, parameters, streaming=False):
            tokens = found
        return tokens

    async def stream(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters
    ) -> AsyncGenerator[int]:
        given = 0
        outputs = self._outputs(prompt_ids, parameters, streaming=True)
        try:
            async for tokens in outputs:
                for token in tokens[given:]:
                    given += 1
                    yield token
        finally:
            await outputs.aclose()

    @property
    def num_free_blocks(self) -> int:
        """Free, or kept for what is in them until somebody needs them."""
        cache = self.manager.batch_processor.cache
        (allocator,) = cache.cache_allocators.values()
        sectors = cache.pool.num_free_sectors * allocator.blocks_per_sector
        kept = len(allocator.ledger.cached_blocks)
        return int(sectors + cache.pool.count_free_blocks(allocator.index) + kept)

    async def _outputs(
        self, prompt_ids: Sequence[int], parameters: GenerationParameters, streaming: bool
    ) -> AsyncGenerator[list[int]]:
        """All tokens so far, each time that there are more; they end with the request."""
        name, outputs = f"request {next(self.ids)}", asyncio.Queue[Any]()
        self.manager.register_result_handler(name, outputs.put_nowait)
        output = None
        try:
            added = self.manager.add_request(
                list(prompt_ids),
                request_id=name,
                max_new_tokens=parameters.max_new_tokens,
                streaming=streaming,
                eos_token_id=list(parameters.stop_token_ids) or -1,
            )
            if added is None:
                raise RuntimeError("the request was dropped")
            while output is None or not output.is_finished():
                output = await outputs.get()
                if output.error is not None:
                    raise RuntimeError(output.error)
                yield list(output.generated_tokens)
        finally:
            if output is None or not output.is_finished():
                self.manager.cancel_request(name)
                self.manager.output_router.result_handlers.pop(name, None)


@pytest.mark.slow
class TestContinuousBatchingManager(ContinuousBatchingSuite):
    capabilities = frozenset(
        {"stream", "chunked", "stop", "blocks", "passes", "threaded", "prefixes"}
    )
    virtual = False
    examples = 4
    expected_failures = dict.fromkeys(
        ("test_a_bad_request_fails_alone", "test_a_step_that_raises_leaves_nobody_waiting"),
        "tests/findings/test_findings_transformers_continuous.py",
    )

    @pytest.fixture
    def make_continuous_batcher(self) -> MakeContinuousBatcher:
        return OfTransformers
