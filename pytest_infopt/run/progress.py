"""A line on the terminal that says how far a long gate has come; nothing where nobody watches.

It is drawn one line below the cursor, which then goes back: what pytest has written stays. rich's
live display would refresh from a thread of its own beside what is timed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rich.console import Console

_BAR = 16  # characters
_NAMED = 2  # undecided metrics
# Index (a line down, scrolling at the end of the screen, in the same column), up; save the cursor.
_BELOW = "\x1bD\x1b[A\x1b7\x1b[B\r\x1b[2K"
_BACK = "\x1b8"


class Progress:
    """Draws around pytest's capturing; silent unless on a terminal that is no CI job's."""

    def __init__(self, config: pytest.Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._clock = clock
        self._began: tuple[str, float] = ("", 0.0)
        self._is_drawn = False
        watched = sys.__stderr__ is not None and sys.__stderr__.isatty()
        told = os.environ.get("CI", "") in ("", "0", "false") and os.environ.get("TERM") != "dumb"
        self._shown = watched and told and not hasattr(config, "workerinput")

    def show(
        self, what: str, done: int, planned: int, waiting: Sequence[str], seconds_left: float
    ) -> None:
        """``done`` of at most ``planned`` samples of a gate on a candidate; most gates stop when
        the metrics ``waiting`` are decided. Work whose parts are not known has none ``planned``.
        """
        if not self._shown:
            return
        if not done or self._began[0] != what:
            self._began = (what, self._clock())
        left = self._left(done, planned, seconds_left)
        self._write(_BELOW + self._line(what, done, planned, waiting, left) + _BACK)
        self._is_drawn = True

    def clear(self) -> None:
        if self._is_drawn:
            self._write(_BELOW + _BACK)
            self._is_drawn = False

    def _left(self, done: int, planned: int, seconds_left: float) -> float:
        """Seconds at the pace so far, and no more than are granted."""
        if not done:
            return seconds_left
        pace = (self._clock() - self._began[1]) / done
        return min(seconds_left, pace * max(0, planned - done))

    def _line(self, what: str, done: int, planned: int, waiting: Sequence[str], left: float) -> str:
        """As wide as the terminal at most; without colours where NO_COLOR is set."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        told = f"at most {left:.0f} s left"
        if planned:
            waits = f", waits for {_some(waiting)}" if waiting else ""
            told = f"{done} of at most {planned}{waits}, {told}"
        console = _console()
        row = Table.grid(padding=(0, 1))
        for _ in range(3):
            row.add_column(no_wrap=True, overflow="crop")
        bar = ProgressBar(total=planned, completed=done, width=_BAR) if planned else ""
        row.add_row(Text(what), bar, Text(told))
        with console.capture() as drawn:
            console.print(row, end="")
        return drawn.get().splitlines()[0]

    def _write(self, text: str) -> None:
        if sys.__stderr__ is None:
            return
        paused = contextlib.nullcontext() if self._capture is None else self._capture
        with getattr(paused, "global_and_fixture_disabled", contextlib.nullcontext)():
            sys.__stderr__.write(text)
            sys.__stderr__.flush()


def _console() -> Console:
    from rich.console import Console

    # A line as wide as the terminal would take the cursor into the next.
    width = shutil.get_terminal_size().columns - 1
    return Console(file=sys.__stderr__, width=width, highlight=False)


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
