"""TeacherDataSuite accepts the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from infopt_reference.caching import Answer, ChatRequest, ServiceError
from infopt_reference.distillation import (
    Example,
    Prompt,
    TeacherData,
    TeacherDataGenerator,
    last_number,
    part_reasoning,
    write_conversations,
)
from infopt_suites import TeacherDataSuite
from infopt_suites.distillation import (
    Answered,
    Collected,
    GeneratorSpec,
    MakeTeacherDataGenerator,
    Teacher,
    TeacherError,
)


class Service:
    """The suite's teacher as an LLMService."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    async def complete(self, request: ChatRequest) -> Answer:
        try:
            reply = await self.teacher.complete(request.messages[-1]["content"])
        except TeacherError as error:
            raise ServiceError(str(error)) from error
        return Answer(reply.text, finish_reason=reply.finish_reason)

    def stream(self, request: ChatRequest) -> Any:
        raise NotImplementedError


class Reference:
    def __init__(self, teacher: Teacher, spec: GeneratorSpec) -> None:
        self.generator = TeacherDataGenerator(
            Service(teacher),
            "teacher",
            concurrency=spec.concurrency,
            attempts=spec.attempts,
            per_second=spec.per_second,
            timeout=spec.timeout,
        )

    async def generate(self, prompts: Mapping[str, str]) -> Collected:
        return collected(await self.generator.generate(asked(prompts)))

    async def generate_into(self, prompts: Mapping[str, str], path: Path) -> Collected:
        return collected(await self.generator.generate(asked(prompts), path))

    def part(self, text: str) -> tuple[str, str]:
        parted = part_reasoning(text)
        return parted.reasoning, parted.answer

    def number(self, text: str) -> float | None:
        found = last_number(part_reasoning(text).answer)
        return None if found is None else float(found)

    def chat_lines(self, examples: Sequence[Answered]) -> str:
        rows = [
            Example(each.id, Prompt.of_text(each.id, each.prompt).messages, each.answer)
            for each in examples
        ]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "chat.jsonl"
            write_conversations(rows, path)
            return path.read_bytes().decode("utf-8")


def asked(prompts: Mapping[str, str]) -> list[Prompt]:
    return [Prompt.of_text(name, text) for name, text in prompts.items()]


def collected(data: TeacherData) -> Collected:
    return Collected(
        [Answered(e.id, e.messages[-1]["content"], e.answer, e.reasoning) for e in data.examples],
        {failure.id: failure.reason for failure in data.failures},
    )


class TestReference(TeacherDataSuite):
    capabilities = frozenset(
        {
            "busy",
            "retries",
            "back-off",
            "rate-limit",
            "timeout",
            "resumable",
            "reasoning",
            "numbers",
            "chat-format",
        }
    )

    @pytest.fixture
    def make_teacher_data_generator(self) -> MakeTeacherDataGenerator:
        return Reference
