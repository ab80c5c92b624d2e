"""The scheduler of transformers' continuous batching through SchedulerSuite, without its model.

Budgets, blocks and order of work hold; what fails is in tests/findings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytest
import torch
import transformers
from infopt_suites.batching import (
    MakeScheduler,
    NewRequest,
    PlannedStep,
    SchedulerLimits,
    SchedulerSuite,
)
from transformers import ContinuousBatchingConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.distributed import DistributedHelper
from transformers.generation.continuous_batching.offloading_manager import OffloadingManager
from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import FIFOScheduler

CONFIG = {
    "vocab_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,  # 128 bytes a token: a block is what the pool gives out
}


class OfTransformers:
    """`FIFOScheduler`, its cache and offloading, as `ContinuousBatchProcessor` drives them."""

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        helper = DistributedHelper(None, None)
        self.cache = PagedAttentionCache(
            transformers.LlamaConfig(**CONFIG),
            ContinuousBatchingConfig(
                page_size=limits.block_size,
                num_blocks=limits.num_blocks,
                max_batch_tokens=limits.max_num_batched_tokens,
                max_blocks_per_request=0,
                max_memory_percent=0.9,
                allow_block_sharing=False,
            ),
            torch.device("cpu"),
            helper,
            dtype=torch.float32,
        )
        self.allocator: Any = self.cache.cache_allocators["full_attention"]
        self.scheduler = FIFOScheduler(self.cache, 0.0, limits.max_num_seqs)
        self.offloading = OffloadingManager(self.cache, self.scheduler, 0.0, 1.0, None, helper)
        self.batch: list[Any] = []

    @property
    def waiting(self) -> Sequence[int]:
        return [int(name) for name in self.scheduler.waiting_requests_order]

    @property
    def running(self) -> Sequence[int]:
        return [int(name) for name in self.scheduler.active_requests]

    @property
    def num_free_blocks(self) -> int:
        pool = self.cache.pool
        return pool.num_free_sectors + int(pool.count_free_blocks(self.allocator.index))

    def block_table(self, request_id: int) -> Sequence[int]:
        table: list[int] = self.allocator.block_table.get(str(request_id), [])
        return table

    def add(self, request: NewRequest) -> None:
        self.scheduler.add_waiting_request(
            RequestState(
                request_id=str(request.request_id),
                initial_tokens=list(request.prompt_ids),
                max_new_tokens=request.max_new_tokens,
                eos_token_id=sorted(request.stop_token_ids) or None,
            )
        )

    def step(self) -> PlannedStep:
        before, self.batch = set(self.running), []
        if not self.scheduler.has_pending_requests():
            return PlannedStep({}, ())
        batch = self._schedule()
        while batch is None:
            if not self.offloading.offload_requests():
                raise RuntimeError("no request can be scheduled or offloaded")
            batch = self._schedule()
        if batch and self.scheduler.starved_requests:
            self.offloading.offload_requests()
        self.batch = batch
        tokens, samples = {}, []
        for future in batch:
            state = future.state
            tokens[int(state.request_id)] = len(state.tokens_to_process)
            state.position_offset += len(state.tokens_to_process)
            if future.has_new_token:
                samples.append(int(state.request_id))
        return PlannedStep(tokens, samples, before & set(self.waiting))

    def update(self, new_tokens: Mapping[int, int]) -> Collection[int]:
        finished = []
        for future in self.batch:
            state, name = future.state, int(future.state.request_id)
            if not future.has_new_token or name not in new_tokens:
                continue
            if state.generated_len() == 0:
                state.status = RequestStatus.DECODING
            if state.update_and_check_completion(new_tokens[name], None):
                self.scheduler.finish_request(state.request_id)
                self.scheduler.block_new_requests = False
                finished.append(name)
        return finished

    def abort(self, request_id: int) -> None:
        self.scheduler.set_request_cancellation(str(request_id))
        self.scheduler.clear_cancelled_requests()

    def _schedule(self) -> list[Any] | None:
        batch, *_ = self.scheduler.schedule_batch(
            self.limits.max_num_batched_tokens, self.cache.max_tokens_read
        )
        return batch


class Unblocked(OfTransformers):
    """Without the fault that an abort leaves new requests blocked."""

    def abort(self, request_id: int) -> None:
        super().abort(request_id)
        self.scheduler.block_new_requests = False


FINDINGS = "tests/findings/test_findings_transformers_continuous.py"
NEVER_REFUSED = "test_what_could_never_run_is_refused"
STARVED = "test_a_constant_stream_starves_nobody"
BLOCKED = (
    "test_an_abort_frees_at_once_and_harms_nobody",
    "test_an_abort_of_all_leaves_nothing",
    "test_any_interleaving_keeps_every_budget",
)


class TestFIFOScheduler(SchedulerSuite):
    capabilities = frozenset({"chunked", "skip", "stop", "blocks"})
    expected_failures = dict.fromkeys((NEVER_REFUSED, STARVED, *BLOCKED), FINDINGS)

    @pytest.fixture
    def make_scheduler(self) -> MakeScheduler:
        return OfTransformers


class TestFIFOSchedulerUnblocked(SchedulerSuite):
    capabilities = frozenset({"chunked", "skip", "stop", "blocks"})
    expected_failures = dict.fromkeys((NEVER_REFUSED, STARVED), FINDINGS)

    @pytest.fixture
    def make_scheduler(self) -> MakeScheduler:
        return Unblocked
