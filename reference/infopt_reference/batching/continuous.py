"""Continuous batching on asyncio: requests join and leave a real model's batch between two steps.

    async with ContinuousBatcher(model, SchedulerConfig(num_blocks=256)) as batcher:
        result = await batcher.submit(prompt_ids, SamplingParameters(max_new_tokens=64))
        async for token in batcher.stream(prompt_ids, SamplingParameters(max_new_tokens=64)): ...

    step = scheduler.step();  logits = model(all tokens of the step);  sample;  scheduler.update

Contract
- The tokens of a request are those that it gets alone, whoever runs beside it, joins, leaves or
  preempts it: greedy up to near-ties of the dtype, drawn ones from a generator of their own.
  `stream` gives the tokens that `submit` returns, each as soon as it is sampled.
- Every caller gets exactly one outcome: a result, an error of its own request (a prompt that cannot
  run, logits that are no numbers), TimeoutError at its deadline, `BatcherStoppedError`, or its
  cancellation. A step that raises is computed again for each request alone, and only those fail for
  which it raises again.
- Cancelling a caller, or leaving its stream, aborts its request: its blocks are free before the
  next step, and all are when nothing runs. Nothing is done while nothing waits or runs.
- The forward pass runs in a thread of its own and the event loop goes on; with ``threaded=False``
  in the loop itself, which goes on between steps: for virtual clocks.

Leaves out: adapters, several processes, text (token ids in and out).
Source: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based Generative
Models", section 4.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import operator
import sys
from collections.abc import AsyncGenerator, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from .errors import BatcherRunningError, BatcherStoppedError, QueueFullError
from .generation import ContinuousStatistics, Generation, GenerationResult
from .packed import Chunk, PackedModel
from .request import Request, RequestState
from .sampling import Sampler, SamplingParameters, sample_rows
from .scheduler import ScheduledRequest, ScheduledStep, Scheduler, SchedulerConfig

logger = logging.getLogger(__name__)
Outcome = int | Exception  # the next token of a request, or why it fails


class ContinuousBatcher:
    """Generates for many callers at once. It begins with `start` and ends with `stop`.

    Args:
        model: a transformers causal model in evaluation mode (`PackedModel`). It is not changed.
        config: budgets and policy; its blocks are allocated at once.
        max_queue_size: the most requests that wait for their first step; None for any number.
        reject_when_full: `submit` raises QueueFullError then, and does not wait for a place.
        threaded: the forward pass runs in a thread of its own.

    Raises:
        ValueError: ``max_queue_size`` is less than 1, ``reject_when_full`` has no bound, or the
            model cannot be used.
    """

    def __init__(
        self,
        model: Any,
        config: SchedulerConfig,
        *,
        max_queue_size: int | None = None,
        reject_when_full: bool = False,
        threaded: bool = True,
    ) -> None:
        if max_queue_size is not None and max_queue_size < 1:
            raise ValueError(f"max_queue_size is {max_queue_size}; give 1 or more, or None")
        if reject_when_full and max_queue_size is None:
            raise ValueError("reject_when_full needs a bound; give max_queue_size")
        self._model = PackedModel(model, config.num_blocks, config.block_size)
        self.scheduler = Scheduler(config, self._model.pages)
        self.statistics = ContinuousStatistics()
        self._max_queue_size = max_queue_size
        self._reject_when_full = reject_when_full
        self._threaded = threaded
        self._executor: ThreadPoolExecutor | None = None
        self._generations: dict[Hashable, Generation] = {}
        self._ids = itertools.count()
        self._room: asyncio.Semaphore | None = None  # places in the queue; None: it is closed
        self._num_at_door = 0  # callers who wait for a place
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_flight: ScheduledStep | None = None
        self._leaving: list[Generation] = []  # who left while a step was computed

    @property
    def num_queued(self) -> int:
        """Requests that wait to be scheduled, preempted ones included."""
        return self.scheduler.num_waiting

    @property
    def num_running(self) -> int:
        return self.scheduler.num_running

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *error: object) -> None:
        await self.stop(drain=exc_type is None)

    async def start(self) -> None:
        """Opens the queue.

        Raises:
            BatcherRunningError: the batcher runs, or has not finished stopping.
        """
        if self._task is not None and not self._task.done():
            raise BatcherRunningError(
                "the batcher runs already; stop it before it is started again"
            )
        self._room = asyncio.Semaphore(self._max_queue_size or sys.maxsize)
        self._work.clear()
        if self._threaded:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="continuous-batcher")
        self._task = asyncio.create_task(self._run())

    async def stop(self, drain: bool = True) -> None:
        """Closes the queue, and returns when nothing runs.

        With ``drain`` every request that has entered the queue is served, otherwise they end with
        `BatcherStoppedError` at once, as do in any case the callers who wait for a place.
        """
        self._close()
        if not drain:
            self._end_all(BatcherStoppedError("the batcher was stopped before the request ended"))
        task = self._task
        if task is not None:
            try:
                await task
            finally:
                if self._task is task:  # nobody has started it again in the meantime
                    self._task = None

    async def submit(
        self,
        prompt_ids: Sequence[int],
        parameters: SamplingParameters | None = None,
        *,
        deadline: float | None = None,
    ) -> GenerationResult:
        """Generates; returns when the request has ended.

        Args:
            prompt_ids: token ids, one at least.
            parameters: None for `SamplingParameters`' defaults.
            deadline: seconds from now, after which the request is given up.

        Raises:
            ValueError: the request could never run.
            QueueFullError: there is no place in the queue (``reject_when_full``).
            TimeoutError: the deadline has passed.
            BatcherStoppedError: the batcher does not run, or was stopped.
        """
        async with asyncio.timeout(deadline):
            generation = await self._enter(prompt_ids, parameters or SamplingParameters())
            try:
                return await generation.result
            finally:
                self._leave(generation)

    async def stream(
        self,
        prompt_ids: Sequence[int],
        parameters: SamplingParameters | None = None,
        *,
        deadline: float | None = None,
    ) -> AsyncGenerator[int]:
        """As `submit`, token by token; the request begins with the first one that is asked for.

        Who leaves before the end should close the iterator (`contextlib.aclosing`): this aborts
        the request. The deadline is looked at while there is no token to give.
        """
        end = None if deadline is None else asyncio.get_running_loop().time() + deadline
        async with asyncio.timeout_at(end):
            generation = await self._enter(prompt_ids, parameters or SamplingParameters())
        output, given = generation.request.output_ids, 0
        try:
            while True:
                while given < len(output):
                    yield output[given]
                    given += 1
                if generation.result.done():
                    generation.result.result()  # raises the request's error, if it has one
                    return
                generation.progress.clear()
                async with asyncio.timeout_at(end):
                    await generation.progress.wait()
        finally:
            self._leave(generation)

    async def _enter(self, prompt_ids: Sequence[int], parameters: SamplingParameters) -> Generation:
        """Puts a request into the queue, when there is a place."""
        submitted, room = asyncio.get_running_loop().time(), self._room
        if room is None:
            raise BatcherStoppedError("the batcher does not run; start it first")
        request, sampler = self._request(prompt_ids, parameters), Sampler(parameters)
        if self._reject_when_full and room.locked():
            raise QueueFullError(f"{self._max_queue_size} requests wait already; try again later")
        self._num_at_door += 1
        try:
            await room.acquire()
        finally:
            self._num_at_door -= 1
        if room is not self._room:
            raise BatcherStoppedError("the batcher was stopped before there was a place")
        generation = Generation(request, sampler, room, submitted)
        self.scheduler.add(request)
        self._generations[request.request_id] = generation
        self.statistics.num_submitted += 1
        self._work.set()
        return generation

    def _request(self, prompt_ids: Sequence[int], parameters: SamplingParameters) -> Request:
        """A new request; ValueError where it could never run."""
        try:
            prompt = [operator.index(token) for token in prompt_ids]
        except TypeError as error:
            raise ValueError(f"token ids are integers: {error}") from error
        outside = [token for token in prompt if not 0 <= token < self._model.vocab_size]
        if outside:
            raise ValueError(
                f"the prompt has token {outside[0]}, the model 0…{self._model.vocab_size - 1}"
            )
        request = Request(
            next(self._ids),
            prompt,
            parameters.max_new_tokens,
            parameters.stop_token_ids,
            parameters.stop_sequences,
        )
        longest = self._model.max_length
        if longest is not None and request.max_computed_tokens > longest:
            raise ValueError(
                f"{len(prompt)} tokens and up to {parameters.max_new_tokens} new ones are more "
                f"than the model's {longest} positions; lower max_new_tokens"
            )
        self.scheduler.check_fits(request)
        return request

    async def _run(self) -> None:
        """Makes steps while there is anything to do, until the queue is closed and empty."""
        error: Exception = BatcherStoppedError("the batcher's task was cancelled")
        try:
            while self._room is not None or self.scheduler.has_unfinished:
                if self.scheduler.has_unfinished:
                    await self._step()
                    await asyncio.sleep(0)  # whoever wants to joins or leaves before the next
                else:
                    await self._work.wait()
                self._work.clear()  # whatever it told of is seen by the conditions above
        except Exception as unexpected:
            error = unexpected
            raise
        finally:
            if self._executor is not None:
                # The thread may be in the middle of a step, whose blocks are about to be free.
                self._executor.shutdown()
                self._executor = None
            unfinished, self._in_flight = self._in_flight, None
            self._close()
            self._end_all(error)
            if unfinished is not None:
                self.scheduler.update(unfinished, {})

    async def _step(self) -> None:
        step = self.scheduler.step()
        if not step.scheduled:  # whoever was there has left: nothing is computed
            return
        for request_id in step.admitted:
            self._generations[request_id].leave_queue()
        self._in_flight = step
        if self._executor is None:
            outcomes = self._compute(step.scheduled)
        else:
            loop = asyncio.get_running_loop()
            outcomes = await loop.run_in_executor(self._executor, self._compute, step.scheduled)
        self._deliver(step, outcomes)

    def _compute(self, scheduled: Sequence[ScheduledRequest]) -> dict[Hashable, Outcome]:
        """One forward pass: the next token of each request that samples, and what went wrong."""
        sampling = [x.request.request_id for x in scheduled if x.samples]
        try:
            logits = self._model.logits([_chunk(x) for x in scheduled])
        except Exception as error:
            if len(scheduled) == 1:
                return {scheduled[0].request.request_id: error}
            logger.warning("a step of %d requests failed; each is tried alone", len(scheduled))
            alone = [self._compute([x]) for x in scheduled]
            return {request_id: outcome for each in alone for request_id, outcome in each.items()}
        samplers = [self._generations[request_id].sampler for request_id in sampling]
        return dict(zip(sampling, sample_rows(logits, samplers), strict=True))

    def _deliver(self, step: ScheduledStep, outcomes: dict[Hashable, Outcome]) -> None:
        """Enters what a step gave, and tells the callers."""
        tokens: dict[Hashable, int] = {}
        for request_id, outcome in outcomes.items():
            if isinstance(outcome, int):
                tokens[request_id] = outcome
            else:
                self.statistics.num_failed += 1
                self._end(self._generations[request_id], outcome)
        finished = self.scheduler.update(step, tokens)
        self._in_flight = None
        self.statistics.max_batch_size = max(self.statistics.max_batch_size, len(step.scheduled))
        self.statistics.num_generated_tokens += len(tokens)
        for request_id in tokens:
            self._generations[request_id].advance()
        for request in finished:
            self.statistics.num_finished += 1
            self._generations.pop(request.request_id).finish()
        leaving, self._leaving = self._leaving, []
        for generation in leaving:
            self._leave(generation)

    def _leave(self, generation: Generation) -> None:
        """The caller is gone: whatever is not finished is aborted, between two steps."""
        if not generation.result.done():
            generation.result.cancel()
        elif not generation.result.cancelled():
            generation.result.exception()  # seen: nobody else will ask for it
        if generation.request.state is RequestState.FINISHED:
            return
        if self._in_flight is not None:
            self._leaving.append(generation)
        else:
            self.statistics.num_aborted += 1
            self._end(generation, None)

    def _end(self, generation: Generation, error: Exception | None) -> None:
        """Aborts a request; its caller, who may be gone, gets the error."""
        request_id = generation.request.request_id
        self.scheduler.abort(request_id)
        self._generations.pop(request_id, None)
        generation.leave_queue()
        if error is not None:
            generation.fail(error)

    def _end_all(self, error: Exception) -> None:
        for generation in list(self._generations.values()):
            generation.fail(error)
            self._leave(generation)

    def _close(self) -> None:
        """Lets nobody in any more; who waits for a place is told so."""
        room, self._room = self._room, None
        if room is not None:
            for _ in range(self._num_at_door):
                room.release()  # nobody uses these places: the room is another one afterwards
        self._work.set()


def _chunk(scheduled: ScheduledRequest) -> Chunk:
    request, start = scheduled.request, scheduled.start
    tokens = request.token_ids(start, start + scheduled.num_tokens)
    return Chunk(request.request_id, tokens, start, scheduled.samples)
