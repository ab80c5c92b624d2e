"""What the gate on tasks measures in the process of the models."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from functools import cached_property

from pytest_infopt import Engine, ModelPair, Rule, Sample, remote
from pytest_infopt.engines.base import (
    StreamingEngine,
    capabilities_of,
    completes_chats_only,
    lacking,
)
from pytest_infopt.judge.paired import Outcome

from .answers import Answering
from .choices import BY_LETTERS, cannot_choose, scores_texts
from .release_tasks import tasks_of
from .task_data import CHOICE, CONTINUED, Answer, AskedTask, Asking, Item, Task
from .task_plan import FLIPS_GAINED, FLIPS_LOST, TasksPlan

ItemKey = tuple[str, str]  # a task's name, and the item's in it


class TasksMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(TasksPlan)

    @remote
    def tasks(self) -> list[AskedTask]:
        """The release's tasks, in the order of measuring."""
        return [
            AskedTask(
                task.name,
                task.kind,
                len(task.units),
                task.chance,
                self._digest(task),
                self._problem(task),
                f"task {task.name}: {BY_LETTERS}" if self._by_letters(task) else "",
            )
            for task in self._tasks
        ]

    @remote
    def unit(self, task: int, index: int) -> Sample:
        """The index-th unit of a task: its items, answered by both."""
        started = time.perf_counter()
        asked = self._tasks[task]
        unit, largest = asked.units[index], max(map(len, asked.units))
        pairs = [(item, self._answers(asked, item)) for item in unit]
        outcomes = [outcome(*answers) for _, answers in pairs]
        filled = [*outcomes, *[Outcome.NO_ITEM] * (largest - len(unit))]
        return Sample(
            unit=f"{asked.name} {unit[0].id}",
            weight=len(unit),
            values={
                FLIPS_LOST.name: outcomes.count(Outcome.LOST) / len(unit),
                FLIPS_GAINED.name: outcomes.count(Outcome.GAINED) / len(unit),
            },
            tokens={Rule.PAIRED: [float(each) for each in filled]},
            details={
                "flips": [flip(item, *answers) for item, answers in pairs if differ(*answers)]
            },
            seconds=time.perf_counter() - started,
        )

    @cached_property
    def _tasks(self) -> list[Task]:
        return tasks_of(self._pair.release)

    def _answering(self, task: Task) -> Asking:
        plan = self._plan
        if task.asking is not None:
            return task.asking(plan.begins_with, plan.new_tokens)
        return Answering(
            task,
            plan.begins_with,
            plan.normalise,
            plan.new_tokens,
            by_letters=self._by_letters(task),
        )

    @property
    def _engines(self) -> tuple[Engine, Engine]:
        return self._pair.reference, self._pair.candidate

    def _by_letters(self, task: Task) -> bool:
        """Whether one of the two cannot be asked in another way; both are then asked in this."""
        ours = task.kind == CHOICE and task.asking is None
        return ours and not all(map(scores_texts, self._engines))

    def _answers(self, task: Task, item: Item) -> tuple[Answer, Answer]:
        key = task.name, item.id
        return self._by_reference(key), self._by_candidate(key)

    @cached_property
    def _by_reference(self) -> Callable[[ItemKey], Answer]:
        return self._pair.by_reference(list(self._items), self._answer)

    @cached_property
    def _by_candidate(self) -> Callable[[ItemKey], Answer]:
        return self._pair.by_candidate(list(self._items), self._answer)

    def _answer(self, engine: Engine, key: ItemKey) -> Answer:
        task, item = self._items[key]
        return self._answering(task).answer(engine, item)

    @cached_property
    def _items(self) -> dict[ItemKey, tuple[Task, Item]]:
        """In the order of measuring."""
        return {
            (task.name, item.id): (task, item)
            for task in self._tasks
            for unit in task.units
            for item in unit
        }

    def _problem(self, task: Task) -> str:
        for engine in self._engines:
            if completes_chats_only(engine) and self._plan.begins_with != "chat":
                return (
                    f"not applicable: the server of {engine.name!r} completes chats only; set "
                    'begins_with = "chat" in [tasks]'
                )
            if task.kind in (CHOICE, CONTINUED):
                problem = cannot_choose(task, engine, self._plan.begins_with == "chat")
            else:
                required = capabilities_of(StreamingEngine)
                problem = lacking(engine.name, engine.capabilities, required)
            if problem:
                return problem
        return ""

    def _digest(self, task: Task) -> str:
        plan, answering, encode = self._plan, self._answering(task), self._pair.reference.encode
        told = [
            (
                item.id,
                item.answer,
                item.choices,
                item.group,
                encode(answering.prompt(item), plan.begins_with),
            )
            for item in task.items
        ]
        kind = BY_LETTERS if self._by_letters(task) else task.kind
        asked = [kind, plan.normalise, plan.new_tokens, told]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def outcome(reference: Answer, candidate: Answer) -> Outcome:
    if reference.right:
        return Outcome.BOTH_RIGHT if candidate.right else Outcome.LOST
    return Outcome.GAINED if candidate.right else Outcome.BOTH_WRONG


def differ(reference: Answer, candidate: Answer) -> bool:
    return reference.right != candidate.right


def flip(item: Item, reference: Answer, candidate: Answer) -> dict[str, str]:
    """An item that only one answers right, for people."""
    return {
        "item": item.id,
        "question": item.question,
        "right answer": item.answer,
        "reference": reference.text,
        "candidate": candidate.text,
        "flip": "gained" if candidate.right else "lost",
    }
