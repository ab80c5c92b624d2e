"""What a tool wrote down of one model: the times of a session, or answers to a task's items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["RecordedAnswer", "Recording"]


@dataclass(frozen=True)
class RecordedAnswer:
    """Whether an answer is right; ``asked`` tells question, prompt and right answer from others."""

    right: bool
    asked: str


@dataclass(frozen=True)
class Recording:
    """One result file, or one line of it.

    ``seconds`` are medians over a session's requests, by stem: ttft, tpot (the gaps behind the
    first token, averaged by request), itl (single gaps), e2e. ``tokens_per_second`` is the rate at
    which all requests together got tokens. ``answers`` are by task and item, one for each time that
    the item was asked. ``finished`` is a time that sorts as text among one tool's files, "" where
    the file tells none. ``settings`` are what has to be alike in all that is compared, ``faults``
    why it cannot be judged.
    """

    tool: str
    file: str
    model: str
    finished: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens_per_second: float | None = None
    answers: Mapping[str, Mapping[str, tuple[RecordedAnswer, ...]]] = field(default_factory=dict)

    @property
    def is_timed(self) -> bool:
        """Whether it is a session under load."""
        return bool(self.seconds)
