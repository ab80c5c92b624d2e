"""SchedulerSuite accepts the reference, with chunked prefill and without."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytest
from infopt_reference.batching.request import Request
from infopt_reference.batching.scheduler import ScheduledStep, Scheduler, SchedulerConfig
from infopt_suites.batching import NewRequest, PlannedStep, SchedulerLimits, SchedulerSuite


class Reference:
    """`Scheduler`, as the suites' protocol."""

    def __init__(self, limits: SchedulerLimits) -> None:
        config = SchedulerConfig(
            num_blocks=limits.num_blocks,
            block_size=limits.block_size,
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            chunked_prefill=limits.chunked_prefill,
            policy=limits.policy,
        )
        self.scheduler = Scheduler(config)
        self.planned: ScheduledStep | None = None

    @property
    def waiting(self) -> Sequence[int]:
        return [int(str(x.request_id)) for x in self.scheduler.waiting]

    @property
    def running(self) -> Sequence[int]:
        return [int(str(x.request_id)) for x in self.scheduler.running]

    @property
    def num_free_blocks(self) -> int:
        return self.scheduler.blocks.num_free_blocks

    def add(self, request: NewRequest) -> None:
        self.scheduler.add(
            Request(
                request.request_id,
                request.prompt_ids,
                request.max_new_tokens,
                request.stop_token_ids,
            )
        )

    def step(self) -> PlannedStep:
        self.planned = step = self.scheduler.step()
        return PlannedStep(step.num_scheduled_tokens, step.samples, step.preempted)  # type: ignore[arg-type]  # ids are integers here

    def update(self, new_tokens: Mapping[int, int]) -> Collection[int]:
        assert self.planned is not None
        finished = self.scheduler.update(self.planned, new_tokens)  # type: ignore[arg-type]  # ids are integers here
        return [int(str(x.request_id)) for x in finished]

    def abort(self, request_id: int) -> None:
        self.scheduler.abort(request_id)

    def block_table(self, request_id: int) -> Sequence[int]:
        return self.scheduler.blocks.block_table(request_id)


class TestReference(SchedulerSuite):
    capabilities = frozenset({"chunked", "preemption", "fcfs", "skip", "stop", "blocks"})

    @pytest.fixture
    def make_scheduler(self) -> type[Reference]:
        return Reference


class TestReferenceWithoutChunks(SchedulerSuite):
    capabilities = frozenset({"preemption", "fcfs", "skip", "stop", "blocks"})

    @pytest.fixture
    def make_scheduler(self) -> type[Reference]:
        return Reference
