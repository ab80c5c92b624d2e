"""The line that says what a gate waits for."""

from __future__ import annotations

import io
import sys

import pytest

from pytest_infopt.run.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Terminal:
    stream = Terminal()
    # A worker of xdist draws nothing; what is tested here is no worker's.
    monkeypatch.delattr(pytestconfig, "workerinput", raising=False)
    monkeypatch.setattr(sys, "__stderr__", stream)
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def test_it_names_the_metrics_that_are_undecided(
    terminal: Terminal, pytestconfig: pytest.Config
) -> None:
    Progress(pytestconfig).show("bf16 quality", 12, 256, ["kl_mean", "kl_p99", "top1"], 84.4)
    line = terminal.getvalue()
    assert "bf16 quality" in line
    assert "12 of at most 256, waits for kl_mean, kl_p99 and 1 more, 84 s left" in line


def test_it_fits_into_the_terminal(
    terminal: Terminal, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Progress(pytestconfig).show("bf16 quality", 12, 256, ["kl_mean"], 84.4)
    assert len(terminal.getvalue().rpartition("\x1b[2K")[2]) < 40


def test_nothing_is_written_where_nobody_watches(
    monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    Progress(pytestconfig).show("bf16 quality", 1, 2, [], 1.0)
    assert not stream.getvalue()
