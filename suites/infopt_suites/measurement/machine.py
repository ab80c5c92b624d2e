"""A machine whose times are known: a host, and a device that works behind the host's back.

Its clock stands still but for what is done on it, so that a sound meter's samples are the true
times, to the clock's resolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from ..wall_clock import EPOCH, virtual_time


class Machine:
    """A host with a device of several streams, each of which does its work in order.

    Python's own clocks show its time while the suite measures; `time.sleep` lets it pass, and
    `time.process_time` does not know of it. Times are in seconds.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._busy_until: dict[int, float] = {}
        self._calendar_set_by = 0.0

    def clock(self) -> float:
        """What `time.perf_counter` shows."""
        return self._now

    def host(self, seconds: float) -> None:
        """Let the host work or wait so long."""
        self._now += seconds

    def launch(self, seconds: float, stream: int = 0) -> None:
        """Give a stream work that takes so long; the host goes on at once."""
        begins = max(self._now, self._busy_until.get(stream, 0.0))
        self._busy_until[stream] = begins + seconds

    def synchronize(self, stream: int | None = None) -> None:
        """Let the host wait until a stream, or all of them, have nothing left to do."""
        if stream is None:
            self._now = max(self._now, *self._busy_until.values(), self._now)
        else:
            self._now = max(self._now, self._busy_until.get(stream, 0.0))

    def event(self, stream: int = 0) -> Event:
        """A mark behind what a stream was given so far, as `torch.cuda.Event.record` sets one."""
        return Event(max(self._now, self._busy_until.get(stream, 0.0)))

    def set_calendar(self, seconds: float) -> None:
        """Set the calendar forward, or back; no other clock sees it."""
        self._calendar_set_by += seconds

    @property
    def rounding(self) -> float:
        """What a difference of two readings may err by, as float64 rounds them."""
        return 2 * math.ulp(max(self._now, *self._busy_until.values(), self._now))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let Python's clocks show this machine's."""
        with virtual_time(self.clock, self.host, self._calendar):
            yield

    def _calendar(self) -> float:
        return EPOCH + self._now + self._calendar_set_by


class Event:
    """A moment of a device."""

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def seconds_until(self, later: Event) -> float:
        """From this one to another."""
        return later._moment - self._moment
