"""Counters that many requests add to, kept in a store.

`add` counts here and now; a moment later all that came together goes to the store as one atomic
addition, off the path of the requests. A hit costs one round trip then, not two.

Contract. No update is lost: what a store did not take is kept and sent again with the next, and
`read` and `flush` wait for it. What only this process knows is at most `DELAY` seconds old while
the store is up; a process that is killed loses that much.
Leaves out: telling whether an addition that broke off was made. It is sent again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from .store import Store

DELAY = 0.05  # seconds: short for who looks at counters, long beside a request of a store
logger = logging.getLogger(__name__)


class Counters:
    """Named numbers of one key of a store; they only grow."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._pending: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None  # what the next three belong to
        self._sending = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def add(self, **amounts: int) -> None:
        """Counts; to be called on an event loop."""
        self._pending.update(amounts)
        loop = self._running_loop()
        if self._timer is None:
            self._timer = loop.call_later(DELAY, self._start_flush)

    def discard(self) -> None:
        """Forgets what the store has not yet been told."""
        self._pending.clear()

    async def flush(self) -> None:
        """Tells the store everything that was counted so far; a failure is logged."""
        self._running_loop()
        async with self._sending:
            amounts, self._pending = self._pending, Counter()
            try:
                if amounts:
                    await self._store.increment(self._key, amounts)
            except BaseException as error:
                self._pending.update(amounts)
                if not isinstance(error, Exception):  # cancelled
                    raise
                logger.warning("the counters %s wait for their store: %r", self._key, error)

    async def read(self) -> dict[str, int]:
        """All numbers, of other processes too; where the store is down, those it was not told."""
        await self.flush()
        try:
            numbers = Counter(await self._store.numbers(self._key))
        except Exception as error:
            logger.warning("the counters %s cannot be read: %r", self._key, error)
            numbers = Counter()
        return dict(numbers + self._pending)

    def _start_flush(self) -> None:
        self._timer = None
        self._task = self._running_loop().create_task(self.flush())

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; what belongs to one that was stopped is left with it."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._sending, self._timer = loop, asyncio.Lock(), None
        return loop
