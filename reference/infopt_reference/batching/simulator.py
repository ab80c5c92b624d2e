"""What a strategy of batching would give for a trace of requests, with no model and in no time.

    for strategy in STRATEGIES:
        result = simulate(strategy, requests, CostModel.fit(measured), policy, config)
        print(strategy, result.mean_latency, result.latency(99), result.tokens_per_second)

    none        one request after the other, in their order
    static      full batches only; the last one goes when the last request has come
    dynamic     full, or the oldest request has waited ``max_wait`` seconds
    continuous  requests join and leave between steps: the reference `Scheduler` decides

Contract. With a batch function that takes `CostModel.batch` seconds, requests are completed at the
very times at which the `StaticBatcher` and the `DynamicBatcher` complete them, those of none being
a `DynamicBatcher` with batches of one; with steps of `CostModel.step` seconds, at those of the
`ContinuousBatcher`. A batch's requests are completed together, when its longest ends. A request
that arrives at the very moment at which a batch is sent or a step begins is part of it.

Leaves out: queues that turn requests away, deadlines, outputs whose length depends on the batch.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .cost_model import CostModel
from .policy import BatchPolicy
from .request import Request
from .scheduler import ScheduledRequest, Scheduler, SchedulerConfig
from .workload import TraceRequest

Strategy = Literal["none", "static", "dynamic", "continuous"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class SimulationResult:
    """When each request was completed, and how busy the machine was.

    Args:
        requests: the trace, in the order of arrival.
        completions: seconds since the trace began, one for each request.
        batch_sizes: of each call of the batch function; of each step under continuous.
        busy_seconds: over all slots.
        num_slots: how many batches may run at a time.
    """

    requests: tuple[TraceRequest, ...]
    completions: tuple[float, ...]
    batch_sizes: tuple[int, ...]
    busy_seconds: float
    num_slots: int

    @property
    def latencies(self) -> tuple[float, ...]:
        """Seconds from arrival to completion, one for each request."""
        pairs = zip(self.completions, self.requests, strict=True)
        return tuple(completion - request.arrival for completion, request in pairs)

    @property
    def mean_latency(self) -> float:
        return float(np.mean(self.latencies))

    def latency(self, percentile: float) -> float:
        """A percentile of the latencies, with linear interpolation: 50 is the median."""
        return float(np.percentile(self.latencies, percentile))

    @property
    def seconds(self) -> float:
        """From the first arrival to the last completion."""
        return max(self.completions) - self.requests[0].arrival

    @property
    def requests_per_second(self) -> float:
        return len(self.requests) / self.seconds

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens."""
        return sum(request.output_tokens for request in self.requests) / self.seconds

    @property
    def utilisation(self) -> float:
        """The share of the time for which a slot was busy."""
        return self.busy_seconds / (self.num_slots * self.seconds)

    @property
    def mean_batch_size(self) -> float:
        return float(np.mean(self.batch_sizes))


def simulate(
    strategy: Strategy,
    requests: Sequence[TraceRequest],
    cost_model: CostModel,
    policy: BatchPolicy | None = None,
    config: SchedulerConfig | None = None,
) -> SimulationResult:
    """Plays a trace through a strategy.

    ``policy`` is that of the batchers, of which "none" uses the slots alone and "static" all but
    the window. ``config`` is that of the scheduler, for "continuous".

    Raises:
        ValueError: there is no request, the strategy is another one or lacks its policy or
            configuration, a request could never run, or the policy turns requests away.
    """
    if not requests:
        raise ValueError("there is no request in the trace; give one at least")
    if strategy not in STRATEGIES:
        raise ValueError(f"the strategy is {strategy!r}; give one of {', '.join(STRATEGIES)}")
    requests = sorted(requests, key=lambda request: request.arrival)
    if strategy == "continuous":
        if config is None:
            raise ValueError("continuous batching needs the scheduler's configuration; give config")
        return _simulate_steps(requests, cost_model, config)
    if policy is None:
        raise ValueError(f"strategy {strategy!r} needs the batcher's policy; give policy")
    if policy.reject_when_full:
        raise ValueError("requests that are turned away have no latency; let them wait instead")
    size = 1 if strategy == "none" else policy.largest_batch
    max_wait = policy.max_wait if strategy == "dynamic" else None
    return _simulate_batches(requests, cost_model, size, max_wait, policy.max_concurrency)


def _simulate_batches(
    requests: Sequence[TraceRequest],
    cost_model: CostModel,
    size: int,
    max_wait: float | None,
    num_slots: int,
) -> SimulationResult:
    """Batches of consecutive requests; the first of them decides when an incomplete one is due."""
    slots = [requests[0].arrival] * num_slots  # when each is free, a heap
    completions: list[float] = []
    batch_sizes: list[int] = []
    busy = 0.0
    while len(completions) < len(requests):
        first = len(completions)
        due = requests[-1].arrival if max_wait is None else requests[first].arrival + max_wait
        if first + size <= len(requests):  # or full before
            due = min(due, requests[first + size - 1].arrival)
        start = max(due, heapq.heappop(slots))
        batch = [x for x in requests[first : first + size] if x.arrival <= start]
        seconds = cost_model.batch(batch)
        heapq.heappush(slots, start + seconds)
        busy += seconds
        batch_sizes.append(len(batch))
        completions += [start + seconds] * len(batch)
    return SimulationResult(
        tuple(requests), tuple(completions), tuple(batch_sizes), busy, num_slots
    )


def _simulate_steps(
    requests: Sequence[TraceRequest], cost_model: CostModel, config: SchedulerConfig
) -> SimulationResult:
    scheduler = Scheduler(config)
    completions = [0.0] * len(requests)
    batch_sizes: list[int] = []
    busy = 0.0
    arrived, moment = 0, requests[0].arrival
    while arrived < len(requests) or scheduler.has_unfinished:
        if not scheduler.has_unfinished:
            moment = max(moment, requests[arrived].arrival)
        while arrived < len(requests) and requests[arrived].arrival <= moment:
            request = requests[arrived]
            scheduler.add(Request(arrived, [0] * request.prompt_tokens, request.output_tokens))
            arrived += 1
        step = scheduler.step()
        seconds = step_seconds(step.scheduled, cost_model)
        moment += seconds
        busy += seconds
        batch_sizes.append(len(step.scheduled))
        for finished in scheduler.update(step, dict.fromkeys(step.samples, 0)):
            assert isinstance(finished.request_id, int)
            completions[finished.request_id] = moment
    return SimulationResult(tuple(requests), tuple(completions), tuple(batch_sizes), busy, 1)


def step_seconds(scheduled: Sequence[ScheduledRequest], cost_model: CostModel) -> float:
    """What a step of the `Scheduler` costs."""
    tokens = sum(part.num_tokens for part in scheduled)
    context = sum(part.start + part.num_tokens for part in scheduled)
    return cost_model.step(len(scheduled), tokens, context)
