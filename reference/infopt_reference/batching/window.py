"""How long the oldest item of an incomplete batch waits for others.

    an item that came at t is due    from t + max_wait on, or once all that came until t are sent on

There is one timer at most, for the item that was the oldest when it was set; items come in their
order, so no window ends before.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

CLOCK_RESOLUTION = time.get_clock_info("monotonic").resolution  # what event loops tell apart


class Window:
    """Calls ``on_end`` when an item becomes due. Times are those of the event loop's clock."""

    def __init__(self, max_wait: float, on_end: Callable[[], None]) -> None:
        self.timer: asyncio.Handle | None = None
        self._max_wait = max_wait
        self._on_end = on_end
        self._due_time = -math.inf  # items that came until then are due
        self._loop: asyncio.AbstractEventLoop

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins anew, with the clock of another event loop."""
        self._loop = loop
        self._due_time = -math.inf

    def is_over(self, came: float) -> bool:
        """Whether an item that came at that time waits for no others."""
        return (
            came <= self._due_time or came + self._max_wait <= self._loop.time() + CLOCK_RESOLUTION
        )

    def end(self, came: float) -> None:
        """Makes all due that came until then."""
        self._due_time = max(self._due_time, came)

    def wait(self, came: float) -> None:
        """Sets the timer for the oldest item, unless it is set for an older one.

        That one may be gone when it ends: whoever is called looks again, and waits for the next.
        """
        if self.timer is not None or self._max_wait == math.inf:
            return
        if self._max_wait == 0:  # behind the callers that come in this turn of the loop
            self.timer = self._loop.call_soon(self._ring, came)
        else:
            self.timer = self._loop.call_at(came + self._max_wait, self._ring, came)

    def cancel(self) -> None:
        """Takes back the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _ring(self, came: float) -> None:
        # Timers may ring up to one resolution of the loop's clock early, hence no look at the time.
        self.timer = None
        self.end(came)
        self._on_end()
