"""Prompts for a teacher, and what became of each: an example, or a failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prompt:
    """A question under an id of its own; ``messages`` of the chat format."""

    id: str
    messages: Sequence[Mapping[str, Any]]

    @classmethod
    def of_text(cls, id: str, text: str) -> Prompt:
        """One message of a user."""
        return cls(id, [{"role": "user", "content": text}])


@dataclass(frozen=True)
class Example:
    """A prompt, and what the teacher thought and answered."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    answer: str
    reasoning: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Failure:
    """A prompt without an answer: why, and after how many calls."""

    id: str
    reason: str
    calls: int


@dataclass(frozen=True)
class TeacherData:
    """What became of every prompt, in their order: ``examples`` and ``failures`` together."""

    examples: Sequence[Example]
    failures: Sequence[Failure]

    def __str__(self) -> str:
        told = f"{len(self.examples)} answers, {len(self.failures)} failures"
        reasons: dict[str, int] = {}
        for failure in self.failures:
            reasons[failure.reason] = reasons.get(failure.reason, 0) + 1
        return "\n".join([told, *(f"  {count} × {reason}" for reason, count in reasons.items())])
