"""What ends a run from outside: a CI runner's signal, which has to leave reports behind."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytest

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Termination:
    """Makes SIGTERM and SIGHUP end a run as Ctrl-C does, while a session lasts and unless they are
    ignored. A second one ends the process at once."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        # Only the main thread may say what a signal does; xdist's workers are ended by theirs.
        main = threading.current_thread() is threading.main_thread()
        if main and not hasattr(session.config, "workerinput"):
            # What is ignored stays so: nohup ignores SIGHUP for all that it starts.
            heeded = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
            self._before = {each: signal.signal(each, self._interrupt) for each in heeded}

    def pytest_unconfigure(self) -> None:
        self._restore()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        raise KeyboardInterrupt(signal.Signals(number).name)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
