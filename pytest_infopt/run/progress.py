"""A line on the terminal that says how far a long gate has come; nothing where nobody watches."""

from __future__ import annotations

import contextlib
import sys

import pytest

_BAR = 24  # characters
_CLEAR = "\r\x1b[2K"


class Progress:
    """Draws over one line of stderr, around pytest's capturing; silent unless on a terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._shown = not hasattr(config, "workerinput") and sys.__stderr__ is not None
        self._shown = self._shown and sys.__stderr__.isatty()  # type: ignore[union-attr]

    def show(self, gate: str, candidate: str, done: int, planned: int) -> None:
        """``done`` of at most ``planned`` samples; most gates stop earlier, when decided."""
        filled = round(_BAR * min(1.0, done / planned)) if planned else 0
        bar = "━" * filled + "╌" * (_BAR - filled)
        self._write(f"{_CLEAR}{candidate} {gate} {bar} {done} of at most {planned}")

    def clear(self) -> None:
        self._write(_CLEAR)

    def _write(self, text: str) -> None:
        if not self._shown or sys.__stderr__ is None:
            return
        paused = contextlib.nullcontext() if self._capture is None else self._capture
        with getattr(paused, "global_and_fixture_disabled", contextlib.nullcontext)():
            sys.__stderr__.write(text)
            sys.__stderr__.flush()
