"""One request under way in a continuous batcher, and the caller who waits for it.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ..decoding.stopping import FinishReason
from .request import Request
from .sampling import Sampler


@dataclass(frozen=True)
class GenerationResult:
    """What a request generated. Times are seconds on the event loop's clock since its submit.

    Args:
        token_ids: the output, the stop token or sequence included.
        finish_reason: why it ended there.
        num_preemptions: how often its memory was taken and computed again.
        time_in_queue: until it was first scheduled.
        time_to_first_token: until its first token was sampled.
        latency: until its last.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_preemptions: int
    time_in_queue: float
    time_to_first_token: float
    latency: float


@dataclass
class ContinuousStatistics:
    """Counted since the batcher was made; `Scheduler.statistics` has steps and preemptions."""

    num_submitted: int = 0  # requests that entered the queue
    num_finished: int = 0
    num_failed: int = 0  # by an error of their own
    num_aborted: int = 0  # cancelled, late, or stopped
    num_generated_tokens: int = 0
    max_batch_size: int = 0  # the most requests of a step


class Generation:
    """A request in a batcher: its sampler, its place in the queue, its outcome.

    ``submitted`` is when it was asked for, on the event loop's clock; ``room`` gets its place back.
    """

    def __init__(
        self, request: Request, sampler: Sampler, room: asyncio.Semaphore, submitted: float
    ) -> None:
        self.request = request
        self.sampler = sampler
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[GenerationResult] = self.loop.create_future()
        self.progress = asyncio.Event()  # for a stream: there are more tokens, or an outcome
        self._room: asyncio.Semaphore | None = room
        self._submitted = submitted
        self._time_in_queue = 0.0
        self._time_to_first_token: float | None = None

    def leave_queue(self) -> None:
        """Gives its place in the queue back, once; a preempted request does not need one again."""
        if self._room is not None:
            self._room.release()
            self._room = None
            self._time_in_queue = self.loop.time() - self._submitted

    def advance(self) -> None:
        if self._time_to_first_token is None:
            self._time_to_first_token = self.loop.time() - self._submitted
        self.progress.set()

    def finish(self) -> None:
        assert self.request.finish_reason is not None
        assert self._time_to_first_token is not None
        if not self.result.done():
            self.result.set_result(
                GenerationResult(
                    token_ids=tuple(self.request.output_ids),
                    finish_reason=self.request.finish_reason,
                    num_preemptions=self.request.num_preemptions,
                    time_in_queue=self._time_in_queue,
                    time_to_first_token=self._time_to_first_token,
                    latency=self.loop.time() - self._submitted,
                )
            )
        self.progress.set()

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)
        self.progress.set()
