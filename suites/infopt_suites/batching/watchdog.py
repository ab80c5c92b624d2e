"""Who keeps an event loop's thread is interrupted and named, where a test would hang for ever.

A synchronous loop, a lock that nobody releases, a wait for another thread: the event loop gets no
turn, so nothing on it can notice. A thread of its own looks at the loop's turns on the real clock,
and sends the main thread a signal when there was none for `HANG` seconds.
"""

from __future__ import annotations

import signal
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from .. import wall_clock

HANG = 20.0  # real seconds without a turn of the event loop
LOOK = 0.25  # real seconds between two looks
WATCHDOG = "watchdog"  # the thread's name
_SIGNAL = signal.SIGURG  # which is ignored where nobody handles it
_PYTHON = sysconfig.get_path("stdlib")
_WALL_CLOCK = wall_clock.__file__


class BlockedError(KeyboardInterrupt):
    """Raised in code that keeps the loop's thread: few libraries catch what ends the process."""


class _Watch:
    """The turns that are looked at, and the thread that looks."""

    def __init__(self) -> None:
        self.turns: Callable[[], int] | None = None
        self.runs = 0  # tells a loop's turns from the same number of another's, long ago
        self.active = threading.Event()
        self.thread: threading.Thread | None = None

    def begin(self, turns: Callable[[], int]) -> None:
        self.turns, self.runs = turns, self.runs + 1
        if self.thread is None or not self.thread.is_alive():  # a fork has none
            self.thread = threading.Thread(target=self._look, name=WATCHDOG, daemon=True)
            self.thread.start()
        self.active.set()

    def end(self) -> None:
        self.active.clear()
        self.turns = None

    def _look(self) -> None:
        main = threading.main_thread().ident
        assert main is not None
        last, since = (0, 0), time.monotonic()
        while True:
            self.active.wait()
            turns = self.turns
            if turns is not None:
                now, seen = time.monotonic(), (self.runs, turns())
                if seen != last:
                    last, since = seen, now
                elif now - since > HANG:
                    since = now
                    signal.pthread_kill(main, _SIGNAL)
            time.sleep(LOOK)


_watch = _Watch()


@contextmanager
def watched(turns: Callable[[], int]) -> Iterator[None]:
    """Raise BlockedError in whatever runs while ``turns``, a count, stands still for too long.

    Signals reach the main thread alone: in another one, nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(_SIGNAL, _interrupt)
    _watch.begin(turns)
    try:
        yield
    finally:
        _watch.end()
        signal.signal(_SIGNAL, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise BlockedError(
        f"the event loop had no turn for {HANG:g} s: {place(frame)} keeps its thread"
    )


def place(frame: FrameType | None) -> str:
    """The innermost function of a stack that is not Python's own, with file and line."""
    while frame is not None and frame.f_back is not None:
        file = frame.f_code.co_filename
        of_python = file.startswith((_PYTHON, "<")) and "site-packages" not in file
        if not of_python and file not in (__file__, _WALL_CLOCK):
            break
        frame = frame.f_back
    if frame is None:
        return "something"
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
