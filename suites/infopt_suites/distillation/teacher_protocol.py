"""What `TeacherDataSuite` talks to: the suite's teacher, and generators that ask it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class TeacherError(Exception):
    """The suite's teacher gave no answer this time: a server's error, or a refused connection."""


@dataclass(frozen=True)
class Reply:
    """What the suite's teacher says; ``finish_reason`` is "length" where it was cut off."""

    text: str | None
    finish_reason: str = "stop"


class Teacher(Protocol):
    """The suite's, which a generator asks, on the running event loop."""

    async def complete(self, prompt: str) -> Reply:
        """Raises TeacherError where there is no answer."""


@dataclass(frozen=True)
class GeneratorSpec:
    """Calls at once; calls of a prompt, at most; begun in a second, at most; seconds for a call."""

    concurrency: int = 4
    attempts: int = 3
    per_second: float | None = None
    timeout: float | None = None


@dataclass(frozen=True)
class Answered:
    """An example: a prompt's id, its text, and the teacher's answer without its reasoning."""

    id: str
    prompt: str
    answer: str
    reasoning: str = ""


@dataclass(frozen=True)
class Collected:
    """Examples, in the order of the prompts, and why the others failed, by id."""

    examples: Sequence[Answered]
    failures: Mapping[str, str]


class TeacherDataGenerator(Protocol):
    """Asks the teacher."""

    async def generate(self, prompts: Mapping[str, str]) -> Collected:
        """What becomes of prompts: id → text."""


class StoringGenerator(TeacherDataGenerator, Protocol):
    """Capability "resumable"."""

    async def generate_into(self, prompts: Mapping[str, str], path: Path) -> Collected:
        """The same; what ``path`` holds already is not asked again. One line an example."""


class ReasoningGenerator(TeacherDataGenerator, Protocol):
    """Capability "reasoning"."""

    def part(self, text: str) -> tuple[str, str]:
        """Reasoning and answer of a text, by <think> and </think>."""


class NumberReader(TeacherDataGenerator, Protocol):
    """Capability "numbers"."""

    def number(self, text: str) -> float | None:
        """The number that a text with reasoning answers; None where there is none."""


class ChatWriter(TeacherDataGenerator, Protocol):
    """Capability "chat-format"."""

    def chat_lines(self, examples: Sequence[Answered]) -> str:
        """The text of a file of the fine-tuning chat format, a line an example."""


class MakeTeacherDataGenerator(Protocol):
    """The factory that `TeacherDataSuite` asks for."""

    def __call__(self, teacher: Teacher, spec: GeneratorSpec) -> TeacherDataGenerator:
        """A generator that asks this teacher."""
