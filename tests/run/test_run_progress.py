"""The line that says what a gate waits for: below what pytest writes, and nowhere else."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from pytest_infopt.run.progress import Progress

COLOUR = re.compile("\x1b\\[[0-9;]*m")
ESCAPE = re.compile("\x1b(?:\\[[0-9;]*[A-Za-z]|[78D])|\r")
needs_emulator = pytest.mark.skipif(find_spec("pyte") is None, reason="not installed: pyte")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """What was last written, without escapes."""
        return ESCAPE.sub("", self.getvalue().rpartition("\x1b[2K")[2])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Terminal:
    stream = Terminal()
    # A worker of xdist draws nothing; what is tested here is no worker's.
    monkeypatch.delattr(pytestconfig, "workerinput", raising=False)
    monkeypatch.setattr(sys, "__stderr__", stream)
    for name, value in {"COLUMNS": "120", "CI": "", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return stream


def test_it_names_the_metrics_that_are_undecided(
    terminal: Terminal, pytestconfig: pytest.Config
) -> None:
    Progress(pytestconfig).show("bf16 quality", 0, 256, ["kl_mean", "kl_p99", "top1"], 84.4)
    assert terminal.text.startswith("bf16 quality ")
    told = "0 of at most 256, waits for kl_mean, kl_p99 and 1 more, at most 84 s left"
    assert terminal.text.rstrip().endswith(told)


def test_the_time_left_follows_the_pace_and_what_is_granted(
    terminal: Terminal, pytestconfig: pytest.Config
) -> None:
    clock = Clock()
    progress = Progress(pytestconfig, clock)
    for seconds, done, granted, left in ((0, 0, 99, 99), (4, 2, 95, 16), (30, 3, 20, 20)):
        clock.now = float(seconds)
        progress.show("bf16 quality", done, 10, [], granted)
        assert terminal.text.rstrip().endswith(f"at most {left} s left")
    progress.show("nf4 quality", 0, 10, [], 99)
    assert terminal.text.rstrip().endswith("at most 99 s left")


def test_work_of_unknown_parts_has_no_bar(terminal: Terminal, pytestconfig: pytest.Config) -> None:
    Progress(pytestconfig).show("nf4 diagnosis", 0, 0, [], 30.0)
    assert terminal.text.split() == ["nf4", "diagnosis", "at", "most", "30", "s", "left"]


@pytest.mark.parametrize("width", [8, 40, 300])
def test_it_fits_into_the_terminal(
    terminal: Terminal, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    Progress(pytestconfig).show("bf16 quality", 12, 256, ["kl_mean"], 84.4)
    assert len(terminal.text) < width
    assert "\n" not in terminal.getvalue()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_obeyed(
    terminal: Terminal, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch, no_color: str
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    Progress(pytestconfig).show("bf16 quality", 12, 256, [], 84.4)
    assert bool(COLOUR.search(terminal.getvalue())) is not bool(no_color)


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(sys, "__stderr__", io.StringIO()),
        lambda patch: patch.setattr(sys, "__stderr__", None),
        lambda patch: patch.setenv("CI", "true"),
        lambda patch: patch.setenv("TERM", "dumb"),
    ],
)
def test_nothing_is_written_where_nobody_watches(
    terminal: Terminal,
    pytestconfig: pytest.Config,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pytest.MonkeyPatch], None],
) -> None:
    change(monkeypatch)
    progress = Progress(pytestconfig)
    progress.show("bf16 quality", 1, 2, [], 1.0)
    progress.clear()
    assert not terminal.getvalue()
    if sys.__stderr__ is not None:
        assert not sys.__stderr__.getvalue()  # type: ignore[attr-defined]


@needs_emulator
@pytest.mark.parametrize("lines_before", [0, 3, 9, 10, 25])
def test_what_pytest_wrote_stays(
    terminal: Terminal, pytestconfig: pytest.Config, lines_before: int
) -> None:
    """On an emulated terminal: also where the cursor stands in the last line of the screen."""
    import pyte

    screen = pyte.Screen(100, 10)
    stream = pyte.Stream(screen)
    before = [f"line {n}" for n in range(lines_before)]
    stream.feed("".join(f"{line}\r\n" for line in before) + "test_gate_quality.py ")
    progress = Progress(pytestconfig)
    for done in range(3):
        progress.show("bf16 quality", done, 9, [], 5.0)
        shown = _lines(stream, screen, terminal)
        assert shown[-2:] == ["test_gate_quality.py", shown[-1]]
        assert shown[-1].startswith("bf16 quality ")
    progress.clear()
    stream.feed("")
    shown = _lines(stream, screen, terminal)
    stream.feed(". [100%]")
    assert [*before, "test_gate_quality.py"][-9:] == shown[-9:]
    assert "test_gate_quality.py . [100%]" in "\n".join(screen.display)


def _lines(stream: Any, screen: Any, terminal: Terminal) -> list[str]:
    """The screen's lines that hold something, after what was written since."""
    stream.feed(terminal.getvalue())
    terminal.seek(0)
    terminal.truncate()
    return [line.rstrip() for line in screen.display if line.strip()]
