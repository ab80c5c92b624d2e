"""A scheduler at work: carries out its steps, and compares each with what the requests need."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import cast

from .scheduler_protocol import (
    NewRequest,
    PinningScheduler,
    PlannedStep,
    Scheduler,
    SchedulerLimits,
    TabledScheduler,
)

PATIENCE = 4  # steps for each token that a request or one before it has to compute


@dataclass
class Tracked:
    """A request that has not ended, and how far it has come."""

    request: NewRequest
    arrival: int
    computed: int = 0
    output_ids: list[int] = field(default_factory=list)
    preempted: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.request.prompt_ids) + len(self.output_ids)

    @property
    def most_tokens(self) -> int:
        return len(self.request.prompt_ids) + self.request.max_new_tokens


class Trial:
    """Adds, computes and aborts; raises AssertionError as soon as the scheduler errs.

    ``live``: requests that have not ended. ``ended``: the others, with all tokens that they got;
    aborted ones have None.
    """

    def __init__(
        self, scheduler: Scheduler, limits: SchedulerLimits, capabilities: Collection[str]
    ) -> None:
        self.scheduler, self.limits, self.capabilities = scheduler, limits, capabilities
        self.live: dict[int, Tracked] = {}
        self.ended: dict[int, list[int] | None] = {}
        self.steps: list[PlannedStep] = []
        self.work = 0  # tokens of all requests so far
        self._next = 0
        self._idle = 0
        self._running: set[int] = set()

    # What callers do

    def add(self, prompt: int, new: int, stop: Iterable[int] = ()) -> int:
        """A request of ``prompt`` + ``new`` tokens, which could run alone; its id."""
        request = NewRequest(self._next, self._prompt(prompt, *stop), new, frozenset(stop))
        self._next += 1
        try:
            self.scheduler.add(request)
        except Exception as error:
            raise AssertionError(
                f"a request of {prompt} + {new} tokens was refused: {self.limits}"
            ) from error
        self.live[request.request_id] = Tracked(request, request.request_id)
        self.work += prompt + new
        self.check()
        return request.request_id

    def _prompt(self, length: int, *last: int) -> tuple[int, ...]:
        """Tokens that no other prompt has, but for the last."""
        first = 1000 * (self._next + 1)
        return (*range(first, first + length - len(last)), *last)

    def must_refuse(self, request: NewRequest, why: str) -> None:
        """Raise AssertionError unless `add` raises and changes nothing."""
        try:
            self.scheduler.add(request)
        except Exception:  # of whatever kind: it is refused
            self.check()
        else:
            raise AssertionError(f"{request} was accepted, {why}: {self.limits}")

    def abort(self, request_id: int) -> None:
        self.scheduler.abort(request_id)
        if self.live.pop(request_id, None):
            self.ended[request_id] = None
        self._running.discard(request_id)
        self.check()

    def step(self, aborted: Iterable[int] = (), token: int = 1) -> PlannedStep:
        """One step; ``aborted`` leave between its planning and its update."""
        waiting = [x.request.request_id for x in self.live.values()]
        waiting = [x for x in waiting if x not in self._running]
        step = self.scheduler.step()
        self.steps.append(step)
        self._check_step(step)
        self._enter(step)
        self._check_order(step, waiting)
        for request_id in aborted:
            self.abort(request_id)
        self._check_memory("when a step was planned")
        if step.num_tokens:
            self._update(step, token)
        return step

    def drain(self, token: int = 1) -> None:
        """Step until all have ended, in a bounded number of steps; then nothing is held."""
        for _ in range(20 + PATIENCE * self.work):
            if not self.live:
                break
            self.step(token=token)
        assert not self.live, (
            f"after {len(self.steps)} steps, requests {sorted(self.live)} have not ended: "
            f"{self._progress()}"
        )
        self.check_idle()

    # What has to hold

    def check(self) -> None:
        """Raise AssertionError unless each request is in one state, and blocks are accounted for.

        Between steps: after `step` comes its update.
        """
        waiting, running = list(self.scheduler.waiting), list(self.scheduler.running)
        for name, ids in (("waiting", waiting), ("running", running)):
            assert len(set(ids)) == len(ids), f"a request is {name} twice: {ids}"
        both = set(waiting) & set(running)
        assert not both, f"requests {sorted(both)} are waiting and running"
        assert {*waiting, *running} == self.live.keys(), (
            f"waiting {waiting} and running {running}, while {sorted(self.live)} have not ended"
        )
        assert len(running) <= self.limits.max_num_seqs, (
            f"{len(running)} requests run, max_num_seqs is {self.limits.max_num_seqs}"
        )
        self._check_memory("between operations")

    def check_idle(self) -> None:
        """Nobody waits or runs: all blocks are free, nothing is pinned, nothing computed."""
        self.check()
        free, blocks = self.scheduler.num_free_blocks, self.limits.num_blocks
        assert free == blocks, f"{free} of {blocks} blocks are free when all requests have ended"
        if "pins" in self.capabilities:
            pins = cast(PinningScheduler, self.scheduler).num_pins
            assert pins == 0, f"{pins} beginnings of prompts are pinned when all have ended"
        step = self.scheduler.step()
        assert not step.num_tokens, f"a step computes {dict(step.num_tokens)} of nobody"

    def _check_step(self, step: PlannedStep) -> None:
        running, limits = set(self.scheduler.running), self.limits
        total = sum(step.num_tokens.values())
        assert total <= limits.max_num_batched_tokens, (
            f"a step computes {total} tokens, max_num_batched_tokens is "
            f"{limits.max_num_batched_tokens}: {dict(step.num_tokens)}"
        )
        strangers = step.num_tokens.keys() - running
        assert not strangers, (
            f"a step computes tokens of requests {sorted(strangers)}, which do not run"
        )
        gone = set(step.preempted) & step.num_tokens.keys() & set(self.scheduler.waiting)
        assert not gone, f"requests {sorted(gone)} are computed and preempted in one step"
        needed = sum(self._blocks(self.live[x].num_tokens) for x in self._running)
        assert not step.preempted or needed > limits.num_blocks, (
            f"requests {sorted(step.preempted)} were preempted, though {needed} of "
            f"{limits.num_blocks} blocks hold all tokens of those that run"
        )
        self._idle = 0 if step.num_tokens else self._idle + 1
        assert not self.live or self._idle < 2, (
            f"two steps computed nothing, while {sorted(self.live)} have not ended: "
            f"{self._progress()}"
        )

    def _enter(self, step: PlannedStep) -> None:
        """Count what the step computes, and see whose next token it samples."""
        for request_id in step.preempted:
            assert request_id in self.live, f"request {request_id} is preempted and unknown"
            self.live[request_id].computed, self.live[request_id].preempted = 0, True
        for request_id, count in step.cached.items():
            tracked = self.live[request_id]
            assert tracked.computed == 0, f"request {request_id} goes on, and does not begin"
            assert count < tracked.num_tokens, f"request {request_id} has nothing left to compute"
            tracked.computed = count
        samples = set()
        for request_id, count in step.num_tokens.items():
            tracked = self.live[request_id]
            missing = tracked.num_tokens - tracked.computed
            assert 0 < count <= missing, (
                f"a step computes {count} tokens of request {request_id}, which lacks {missing} of "
                f"{tracked.num_tokens}"
            )
            if not self.limits.chunked_prefill:
                assert count == missing, f"{count} of {missing} tokens, without chunked prefill"
            tracked.computed += count
            if tracked.computed == tracked.num_tokens:
                samples.add(request_id)
        assert set(step.samples) == samples, (
            f"the step samples for {sorted(step.samples)}, the last tokens of {sorted(samples)} "
            f"are computed"
        )

    def _check_order(self, step: PlannedStep, waiting: list[int]) -> None:
        """Nobody is begun before one who came earlier, or who had been preempted."""
        before = self._running - set(step.preempted)
        begun = [x for x in self.scheduler.running if x not in before]
        left = [x for x in self.scheduler.waiting if x in waiting or x in step.preempted]
        for new in begun:
            for other in left:
                earlier = self.live[other].arrival < self.live[new].arrival
                assert not (self.limits.policy == "fcfs" and earlier), (
                    f"request {new} was begun before {other}, which came earlier; the policy is "
                    f"fcfs"
                )
                returns = self.live[other].preempted and not self.live[new].preempted
                assert not ("preemption" in self.capabilities and returns and earlier), (
                    f"request {new}, which had not run, was begun before {other}, which came "
                    f"earlier and had been preempted"
                )
        for new in begun:
            self.live[new].preempted = False
        self._running = set(self.scheduler.running)

    def _check_memory(self, when: str) -> None:
        limits, free = self.limits, self.scheduler.num_free_blocks
        assert 0 <= free <= limits.num_blocks, f"{free} of {limits.num_blocks} blocks are free"
        running = [self.live[x] for x in self.scheduler.running if x in self.live]
        held = limits.num_blocks - free
        least = sum(self._blocks(x.computed) for x in running)
        assert held >= least, (
            f"{when}: computed tokens take {least} blocks, {held} of {limits.num_blocks} are held"
        )
        most = sum(self._blocks(x.most_tokens) for x in running)
        assert held <= most, (
            f"{when}: {held} blocks are held by {len(running)} running requests, which never need "
            f"more than {most}"
        )
        if "blocks" in self.capabilities:
            tables = cast(TabledScheduler, self.scheduler)
            owned = [x for t in running for x in tables.block_table(t.request.request_id)]
            assert len(set(owned)) == len(owned), f"a block has two owners: {sorted(owned)}"
            assert len(owned) == held, f"{when}: {len(owned)} blocks are in tables, {held} held"
            for x in running:
                table = tables.block_table(x.request.request_id)
                assert len(table) >= self._blocks(x.computed), (
                    f"request {x.request.request_id} computed {x.computed} tokens in blocks "
                    f"{list(table)} of {limits.block_size}"
                )

    def _update(self, step: PlannedStep, token: int) -> None:
        tokens = {x: token for x in step.samples if x in self.live}
        finished = list(self.scheduler.update(tokens))
        expected = set()
        for request_id in tokens:
            tracked = self.live[request_id]
            tracked.output_ids.append(token)
            length = len(tracked.output_ids) == tracked.request.max_new_tokens
            if length or token in tracked.request.stop_token_ids:
                expected.add(request_id)
        assert sorted(finished) == sorted(expected), (
            f"requests {sorted(finished)} were said to end, {sorted(expected)} got their last token"
        )
        for request_id in expected:
            self.ended[request_id] = self.live.pop(request_id).output_ids
        self._running -= expected
        self.check()

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def _progress(self) -> str:
        return "; ".join(
            f"{i}: {x.computed} computed of {len(x.request.prompt_ids)} + {len(x.output_ids)}, up "
            f"to {x.most_tokens}"
            for i, x in self.live.items()
        )
