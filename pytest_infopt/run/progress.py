"""A line on the terminal that says how far a long gate has come; nothing where nobody watches."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Sequence

import pytest

_BAR = 16  # characters
_NAMED = 2  # undecided metrics
_CLEAR = "\r\x1b[2K"


class Progress:
    """Draws over one line of stderr, around pytest's capturing; silent unless on a terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._shown = not hasattr(config, "workerinput") and sys.__stderr__ is not None
        self._shown = self._shown and sys.__stderr__.isatty()  # type: ignore[union-attr]

    def show(
        self, what: str, done: int, planned: int, waiting: Sequence[str], seconds_left: float
    ) -> None:
        """``done`` of at most ``planned`` samples of a gate on a candidate; most gates stop when
        the metrics ``waiting`` are decided."""
        filled = round(_BAR * min(1.0, done / planned)) if planned else 0
        bar = "━" * filled + "╌" * (_BAR - filled)
        waits = f", waits for {_some(waiting)}" if waiting else ""
        line = f"{what} {bar} {done} of at most {planned}{waits}, {seconds_left:.0f} s left"
        # A line longer than the terminal would leave its first part behind.
        self._write(_CLEAR + line[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        self._write(_CLEAR)

    def _write(self, text: str) -> None:
        if not self._shown or sys.__stderr__ is None:
            return
        paused = contextlib.nullcontext() if self._capture is None else self._capture
        with getattr(paused, "global_and_fixture_disabled", contextlib.nullcontext)():
            sys.__stderr__.write(text)
            sys.__stderr__.flush()


def _some(names: Sequence[str]) -> str:
    """The first names, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
