"""Which requests compute how many tokens in the next step of a continuous batcher. Counts only.

    scheduler.add(Request("a", prompt, max_new_tokens=64))
    while scheduler.has_unfinished:
        step = scheduler.step()                      who computes how much now
        scheduler.update(step, tokens)               the token sampled for each of step.samples

A step goes over the running requests, the first admitted first, then admits waiting ones while the
budgets last. A running request computes what it lacks: one token as a rule, its prompt in the first
step, or in several (*chunked prefill*), of which each takes what is left of the token budget.

Contract
- Every request is waiting, running or finished, once. At most ``max_num_seqs`` run; a step computes
  at most ``max_num_batched_tokens`` tokens; blocks are those of one `BlockAllocator`.
- A request gets the blocks of all its tokens when it is admitted, and later ones as it grows. When
  there is none, the request admitted last loses all of its own (*preemption by recompute*) and goes
  back to the front of the queue. The one admitted first is never preempted by another, and what no
  empty pool could hold is refused by `Scheduler.add`: so every step makes progress, and every
  request finishes.
- Waiting requests are admitted in their order. ``policy`` says what happens behind one for which
  there is no room: "fcfs" lets nobody pass, "skip" lets pass what fits, of the first
  ``max_num_seqs``; never past one that was preempted, and past the same one ``max_passes`` times at
  most. A step that preempts admits nobody.
- With ``prefix_caching``, blocks that were filled are known to a `PrefixCache`, and a request that
  begins as they do computes what comes behind them. Nobody is preempted while there are known
  blocks that nobody holds: they are evicted.
- The cost of a step depends on the number of requests that run, never on how many wait.

Leaves out: priorities, steps that overlap (a step is updated before the next).
Sources: Yu et al. 2022, "Orca", section 4.1 (scheduling by iteration); Kwon et al. 2023,
"Efficient Memory Management for Large Language Model Serving with PagedAttention", section 4.5
(preemption); Agrawal et al. 2024, "Sarathi-Serve", section 4 (chunked prefill).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from ..attention.block_allocator import BlockAllocator
from ..attention.prefix_cache import PrefixCache, PrefixMatch
from ..decoding.stopping import FinishReason
from .request import Request, RequestState

NOTHING = PrefixMatch((), 0)


@dataclass(frozen=True)
class SchedulerConfig:
    """Budgets and policy of a `Scheduler`.

    Args:
        num_blocks: blocks of the KV cache.
        block_size: tokens of a block.
        max_num_seqs: the most requests that run at a time.
        max_num_batched_tokens: the most tokens that a step computes, over all requests.
        chunked_prefill: a prompt may be computed in several steps. Without, it waits for a step
            that has room for all of it, and may be no longer than a step.
        policy: whether a waiting request may pass one that does not fit ("skip") or not ("fcfs").
        max_passes: how many may pass the same one under "skip".
        prefix_caching: requests that begin alike share the blocks of their beginning.

    Raises:
        ValueError: a number is out of its range, or the policy is another one.
    """

    num_blocks: int
    block_size: int = 16
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 512
    chunked_prefill: bool = True
    policy: Literal["fcfs", "skip"] = "fcfs"
    max_passes: int = 64
    prefix_caching: bool = False

    def __post_init__(self) -> None:
        for name in ("num_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.max_passes < 0:
            raise ValueError(f"max_passes is {self.max_passes}; give 0 or more")
        if self.policy not in ("fcfs", "skip"):
            raise ValueError(f"the policy is {self.policy!r}; give 'fcfs' or 'skip'")


@dataclass(frozen=True)
class ScheduledRequest:
    """Tokens ``start`` to ``start + num_tokens`` − 1 of a request are computed in a step.

    ``samples``: its last token is among them, and the next one is sampled.
    """

    request: Request
    start: int
    num_tokens: int
    samples: bool


@dataclass(frozen=True)
class ScheduledStep:
    """What a step computes, in the order of admission, and what was preempted for it."""

    scheduled: tuple[ScheduledRequest, ...]
    admitted: tuple[Hashable, ...]
    preempted: tuple[Hashable, ...]
    samples: tuple[Hashable, ...]  # the requests whose next token has to be sampled

    @property
    def num_scheduled_tokens(self) -> dict[Hashable, int]:
        """How many tokens each request computes."""
        return {x.request.request_id: x.num_tokens for x in self.scheduled}

    @property
    def total_num_scheduled_tokens(self) -> int:
        return sum(x.num_tokens for x in self.scheduled)


@dataclass
class SchedulerStatistics:
    """Counted since the scheduler was made."""

    num_steps: int = 0
    num_scheduled_tokens: int = 0
    num_recomputed_tokens: int = 0  # computed, and lost by preemption
    num_preemptions: int = 0
    num_finished: int = 0  # by a stop rule or their length
    num_aborted: int = 0


class Scheduler:
    """Admission, token budget, memory and preemption of a continuous batcher.

    ``blocks`` is the allocator in which sequences are named by their request ids; a `PagedKVCache`
    is one. None: an allocator of its own. Requests that have finished are not kept.

    Raises:
        ValueError: ``blocks`` has other sizes than the configuration.
    """

    def __init__(self, config: SchedulerConfig, blocks: BlockAllocator | None = None) -> None:
        self.config = config
        if blocks is None:
            blocks = BlockAllocator(config.num_blocks, config.block_size)
        self.blocks = blocks
        sizes = (self.blocks.num_blocks, self.blocks.block_size)
        if sizes != (config.num_blocks, config.block_size):
            raise ValueError(
                f"the allocator has {sizes[0]} blocks of {sizes[1]} tokens, the configuration "
                f"{config.num_blocks} of {config.block_size}"
            )
        self.prefixes = (
            PrefixCache(blocks.pool, blocks.block_size) if config.prefix_caching else None
        )
        self.statistics = SchedulerStatistics()
        self._waiting: OrderedDict[Hashable, Request] = OrderedDict()
        self._running: dict[Hashable, Request] = {}  # in the order of admission
        self._in_flight: ScheduledStep | None = None

    @property
    def waiting(self) -> tuple[Request, ...]:
        """The requests that wait, the next one first."""
        return tuple(self._waiting.values())

    @property
    def running(self) -> tuple[Request, ...]:
        """The requests that run, the first admitted first."""
        return tuple(self._running.values())

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no request holds; among them are those that the prefix cache may evict."""
        evictable = 0 if self.prefixes is None else self.prefixes.num_evictable
        return self.blocks.num_free_blocks + evictable

    @property
    def has_unfinished(self) -> bool:
        return bool(self._waiting or self._running)

    def __contains__(self, request_id: Hashable) -> bool:
        """Whether a request waits or runs."""
        return request_id in self._waiting or request_id in self._running

    def add(self, request: Request) -> None:
        """Puts a new request at the end of the queue.

        Raises:
            ValueError: the request is not new, another one has its id, or it could not even run
                alone: in blocks, or, without chunked prefill, in tokens of a step. The last counts
                the tokens to generate, which are computed again after a preemption.
        """
        if not request.is_new:
            raise ValueError(f"{request} is not new; make another one of its prompt")
        if request.request_id in self:
            raise ValueError(f"request {request.request_id!r} is not finished; give another id")
        self.check_fits(request)
        self._waiting[request.request_id] = request

    def check_fits(self, request: Request) -> None:
        """Raises ValueError for a request that could not even run alone."""
        config, tokens = self.config, request.max_computed_tokens
        needed = self.blocks.blocks_for(tokens)
        if needed > config.num_blocks:
            raise ValueError(
                f"request {request.request_id!r} of {len(request.prompt_ids)} tokens and up to "
                f"{request.max_new_tokens} new ones needs {needed} blocks of {config.block_size}, "
                f"there are {config.num_blocks}; raise num_blocks or lower max_new_tokens"
            )
        if not config.chunked_prefill and tokens > config.max_num_batched_tokens:
            raise ValueError(
                f"request {request.request_id!r} may have to compute {tokens} tokens at once, a "
                f"step has {config.max_num_batched_tokens}; allow chunked_prefill, raise "
                f"max_num_batched_tokens or lower max_new_tokens"
            )

    def step(self) -> ScheduledStep:
        """Decides what is computed next; empty when nothing waits or runs.

        Raises:
            RuntimeError: the step before was not updated.
        """
        if self._in_flight is not None:
            raise RuntimeError("a step is in flight; update it before the next one is made")
        scheduled: list[ScheduledRequest] = []
        budget = self.config.max_num_batched_tokens
        preempted = self._continue_running(scheduled, budget)
        running = len(scheduled)
        # After a preemption nobody gets in: what was freed is less than the victim needs now, and
        # nobody passes a victim.
        self._admit(scheduled, budget - sum(x.num_tokens for x in scheduled))
        ids = [x.request.request_id for x in scheduled]
        step = ScheduledStep(
            scheduled=tuple(scheduled),
            admitted=tuple(ids[running:]),
            preempted=tuple(preempted),
            samples=tuple(id_ for id_, x in zip(ids, scheduled, strict=True) if x.samples),
        )
        if scheduled:
            self._in_flight = step
            self.statistics.num_steps += 1
            self.statistics.num_scheduled_tokens += step.total_num_scheduled_tokens
        return step

    def update(self, step: ScheduledStep, new_tokens: Mapping[Hashable, int]) -> list[Request]:
        """Enters what a step computed; the requests that finish with it, their blocks given back.

        ``new_tokens`` has the sampled token of each of ``step.samples``. Those of requests that
        were aborted in the meantime are ignored, and may be missing.

        Raises:
            ValueError: the step is not the one in flight, or tokens are missing or not asked for.
                Nothing was changed.
        """
        if not step.scheduled:
            return []
        if step is not self._in_flight:
            raise ValueError("the step is not the one in flight; update each step once")
        present = [x for x in step.scheduled if x.request.state is RequestState.RUNNING]
        missing = [x.request.request_id for x in present if x.samples]
        missing = [request_id for request_id in missing if request_id not in new_tokens]
        if missing or not new_tokens.keys() <= set(step.samples):
            raise ValueError(
                f"tokens are given for {list(new_tokens)}, the step samples {list(step.samples)}; "
                f"give one for each of them"
            )
        self._in_flight = None
        finished = []
        for scheduled in present:
            request = scheduled.request
            request.num_computed_tokens += scheduled.num_tokens
            self._make_known(request, scheduled.start)
            if not scheduled.samples:
                continue
            if reason := request.append(new_tokens[request.request_id]):
                self._finish(request, reason)
                self.statistics.num_finished += 1
                finished.append(request)
        return finished

    def abort(self, request_id: Hashable) -> bool:
        """Ends a request that waits or runs, at any time; False when there is no such request.

        Its blocks are free at once. Whoever computes the step in flight may still write to them:
        abort between steps, or do not let the next one begin before.
        """
        request = self._waiting.get(request_id) or self._running.get(request_id)
        if request is None:
            return False
        self._finish(request, FinishReason.ABORT)
        self.statistics.num_aborted += 1
        return True

    def _continue_running(self, scheduled: list[ScheduledRequest], budget: int) -> list[Hashable]:
        """Schedules what runs, and makes room for it; the requests that had to go."""
        preempted: list[Hashable] = []
        for request in list(self._running.values()):
            if request.state is not RequestState.RUNNING:
                break  # preempted for one before; so are all behind
            count = min(request.num_tokens - request.num_computed_tokens, budget)
            if not count:
                break
            if not self._make_room(request, preempted):
                break
            scheduled.append(_compute(request, count))
            budget -= count
        return preempted

    def _make_room(self, request: Request, preempted: list[Hashable]) -> bool:
        """Blocks for all tokens of a running request; False when it had to go itself."""
        grown = request.num_tokens - self.blocks.num_tokens(request.request_id)
        while not self.blocks.can_append(request.request_id, grown):
            if self._evict(1):
                continue
            victim = next(reversed(self._running.values()))
            self._preempt(victim)
            preempted.append(victim.request_id)
            if victim is request:
                return False
        self.blocks.append(request.request_id, grown)
        return True

    def _admit(self, scheduled: list[ScheduledRequest], budget: int) -> None:
        passed: list[Request] = []
        for request in list(islice(self._waiting.values(), self.config.max_num_seqs)):
            if len(self._running) >= self.config.max_num_seqs or not budget:
                break
            known = self._match(request)
            count = request.num_tokens - known.num_tokens
            if self.config.chunked_prefill:
                count = min(count, budget)
            if count > budget or not self._start(request, known):
                if self.prefixes is not None:
                    self.prefixes.release(known)
                if not self._may_be_passed(request):
                    break
                passed.append(request)
                continue
            scheduled.append(_compute(request, count))
            budget -= count
            for before in passed:
                before.num_passes += 1
            if passed and any(not self._may_be_passed(before) for before in passed):
                break

    def _may_be_passed(self, request: Request) -> bool:
        return (
            self.config.policy == "skip"
            and not request.num_preemptions
            and request.num_passes < self.config.max_passes
        )

    def _start(self, request: Request, known: PrefixMatch) -> bool:
        """Gives a waiting request its blocks, behind those that are known; False without room."""
        rest = request.num_tokens - known.num_tokens
        self._evict(self.blocks.blocks_for(rest) - self.blocks.num_free_blocks)
        if not self.blocks.can_allocate(rest):
            return False
        self.blocks.allocate(request.request_id, request.num_tokens, known.blocks)
        del self._waiting[request.request_id]
        self._running[request.request_id] = request
        request.state = RequestState.RUNNING
        request.num_computed_tokens = known.num_tokens
        return True

    def _match(self, request: Request) -> PrefixMatch:
        if self.prefixes is None:
            return NOTHING
        return self.prefixes.match(request.token_ids(0, request.num_tokens))

    def _evict(self, num_blocks: int) -> int:
        return self.prefixes.evict(num_blocks) if self.prefixes is not None else 0

    def _make_known(self, request: Request, start: int) -> None:
        """Enters the blocks that were filled from token ``start`` on into the prefix cache."""
        computed, size = request.num_computed_tokens, self.config.block_size
        if self.prefixes is None or computed // size == start // size:
            return
        table = self.blocks.block_table(request.request_id)
        shared = self.prefixes.insert(request.token_ids(0, computed), table)
        for index, (own, known) in enumerate(zip(table, shared, strict=True)):
            if own != known:  # another request computed the same at the same time
                self.blocks.replace(request.request_id, index, known)

    def _preempt(self, request: Request) -> None:
        self.blocks.free(request.request_id)
        del self._running[request.request_id]
        self._waiting[request.request_id] = request
        self._waiting.move_to_end(request.request_id, last=False)
        self.statistics.num_preemptions += 1
        self.statistics.num_recomputed_tokens += request.num_computed_tokens
        request.state = RequestState.WAITING
        request.num_computed_tokens = 0
        request.num_preemptions += 1

    def _finish(self, request: Request, reason: FinishReason) -> None:
        if request.state is RequestState.RUNNING:
            del self._running[request.request_id]
            self.blocks.free(request.request_id)
        else:
            del self._waiting[request.request_id]
        request.state = RequestState.FINISHED
        request.finish_reason = reason


def _compute(request: Request, num_tokens: int) -> ScheduledRequest:
    start = request.num_computed_tokens
    return ScheduledRequest(request, start, num_tokens, start + num_tokens == request.num_tokens)
