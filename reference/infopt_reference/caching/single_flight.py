"""Single flight: of equal requests at the same time, one does the work and all get its result.

Contract
- While work for a key is under way, no other begins; what came with it gets its result.
- The work belongs to nobody: it goes on when the one who began it is cancelled, and is cancelled
  when nobody waits for it any more.
- Who waited for work that another began, and that failed, gets a second chance: one more flight,
  which one of them begins. A failure is a bad answer for requests that never tried; more than two
  failures would make requests wait for a dead backend in a queue.

Leaves out: flights over several processes. A lock in the store would have to outlive its holder's
death, and would cost each miss more than a second answer is worth.

Source: the Go package golang.org/x/sync/singleflight has the first rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")
Work = Callable[[], Awaitable[Result]]


class SingleFlight(Generic[Result]):
    """Work by key, each key's at most once at a time. ``landed``: how many flights have ended."""

    def __init__(self) -> None:
        self.landed = 0
        self._flights: dict[str, _Flight[Result]] = {}

    async def run(self, key: str, work: Work[Result]) -> tuple[Result, bool]:
        """The result of ``work`` for ``key``, and whether this call began it.

        Raises whatever the work raises.
        """
        try:
            return await self._join(key, work)
        except FollowedFailureError:
            pass
        try:
            return await self._join(key, work)
        except FollowedFailureError as failure:
            raise failure.cause from None

    async def _join(self, key: str, work: Work[Result]) -> tuple[Result, bool]:
        flight = self._flights.get(key)
        # A flight of another loop was stopped with it.
        begins = flight is None or flight.loop is not asyncio.get_running_loop()
        if flight is None or begins:
            flight = self._flights[key] = _Flight(work)
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task), begins
        except (Exception, asyncio.CancelledError) as error:
            if begins or _is_cancelled():
                raise
            raise FollowedFailureError(error) from None
        finally:
            flight.waiting -= 1
            if flight.task.done() or not flight.waiting:
                flight.task.cancel()  # of no effect where it is done
                if self._flights.get(key) is flight:
                    del self._flights[key]
                    self.landed += 1


class FollowedFailureError(Exception):
    """Work that another call began has failed."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(repr(cause))
        self.cause = cause


class _Flight(Generic[Result]):
    """One piece of work, and how many wait for it."""

    def __init__(self, work: Work[Result]) -> None:
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[Result] = self.loop.create_task(_run(work))
        self.waiting = 0


async def _run(work: Work[Result]) -> Result:
    return await work()


def _is_cancelled() -> bool:
    """Whether the running task itself is being cancelled, not only what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
