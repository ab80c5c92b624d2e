"""What the suite for schedulers talks to: minimal protocols for a thin adapter.

A request has computed some of its tokens, those of its prompt and those sampled so far. A step
computes more of them; the step that computes the last one samples the next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Policy = Literal["fcfs", "skip"]


@dataclass(frozen=True)
class SchedulerLimits:
    """The scheduler that the suite asks for.

    ``num_blocks`` blocks of ``block_size`` tokens are there for keys and values; ``max_num_seqs``
    requests run at a time; a step computes ``max_num_batched_tokens`` tokens, over all requests.
    ``chunked_prefill``: a prompt may be computed in several steps. ``policy``: whether a request
    may pass one that waits since there is no room for it ("skip") or not ("fcfs").
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    chunked_prefill: bool
    policy: Policy

    @property
    def num_tokens(self) -> int:
        """Tokens for which there are blocks."""
        return self.num_blocks * self.block_size


@dataclass(frozen=True)
class NewRequest:
    """A request: it ends with its ``max_new_tokens``-th token, or with one of those that stop it.

    Tokens to stop with are given only where the capability "stop" is claimed.
    """

    request_id: int
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    stop_token_ids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class PlannedStep:
    """What a step computes.

    ``num_tokens``: how many tokens of each request, one at least; requests that are not in it
    compute nothing. ``samples``: the requests whose next token is sampled in it. ``preempted``: the
    requests that lost their blocks for it, and will compute all their tokens again. ``cached``: how
    many first tokens of requests that begin with it need no computing, as a prefix cache has them.
    """

    num_tokens: Mapping[int, int]
    samples: Collection[int]
    preempted: Collection[int] = ()
    cached: Mapping[int, int] = field(default_factory=dict)


class Scheduler(Protocol):
    """Admission, memory and token budget of a continuous batcher."""

    @property
    def waiting(self) -> Sequence[int]:
        """Requests that have no blocks, as they were not begun or lost them."""

    @property
    def running(self) -> Sequence[int]:
        """Requests that were begun and have not ended."""

    @property
    def num_free_blocks(self) -> int:
        """Blocks that are there for whoever needs them."""

    def add(self, request: NewRequest) -> None:
        """Let a request wait; raise, and change nothing, if it could not even run alone, or if
        another one that has not ended has its id."""

    def step(self) -> PlannedStep:
        """What is to be computed now; nothing, where nobody waits or runs."""

    def update(self, new_tokens: Mapping[int, int]) -> Collection[int]:
        """Enter the token that was sampled for each request of ``samples`` that was not aborted in
        the meantime; give the requests that end with it. Called once for each step that computes
        anything, before the next one."""

    def abort(self, request_id: int) -> None:
        """End a request, at any time, also between a step and its update."""


class TabledScheduler(Scheduler, Protocol):
    """Capability "blocks"."""

    def block_table(self, request_id: int) -> Sequence[int]:
        """The blocks of a running request."""


class PinningScheduler(Scheduler, Protocol):
    """Capability "pins"."""

    @property
    def num_pins(self) -> int:
        """Cached beginnings of prompts that are not evicted, as a request has found them."""


class MakeScheduler(Protocol):
    """The factory that `SchedulerSuite` asks for."""

    def __call__(self, limits: SchedulerLimits) -> Scheduler:
        """A scheduler without requests."""
