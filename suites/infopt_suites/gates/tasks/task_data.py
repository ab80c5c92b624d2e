"""Tasks as data: items with one right answer, from JSONL files and from packages.

A line of a file is an item: ``question`` and ``answer``; ``choices`` make it multiple choice, where
the answer is a choice, its letter, or its place from 0. Without choices the model writes an answer:
a number where every answer of the file is one, else a text that has to match. ``group`` names what
items share, such as a passage: such items are one independent unit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pytest_infopt.corpus import read_objects
from pytest_infopt.errors import ConfigurationError

from .answer_text import number_in

if TYPE_CHECKING:
    from pytest_infopt import Engine

CHOICE, NUMBER, TEXT, VERIFIED = "multiple choice", "number", "exact match", "verified"
CONTINUED = "most probable continuation"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Item:
    """``answer`` is the right choice's text, or what has to be written."""

    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class Answer:
    """What a model answered, and whether that is right."""

    text: str
    right: bool


class Asking(Protocol):
    """How a task's items are put to engines, and their answers read."""

    def prompt(self, item: Item) -> str: ...

    def answer(self, engine: Engine, item: Item) -> Answer: ...


@dataclass(frozen=True)
class Task:
    """``examples`` are shown before each question. ``verify`` says of a written answer whether it
    is right, where the task brings a verifier of its own. A task that asks in a way of its own has
    ``asking``, made of what a question begins with and the most tokens, and its kind,
    ``asked_as``."""

    name: str
    items: tuple[Item, ...]
    examples: tuple[Item, ...] = ()
    verify: Callable[[str, Item], bool] | None = field(default=None, compare=False)
    asking: Callable[[str, int], Asking] | None = field(default=None, compare=False)
    asked_as: str | None = None

    @cached_property
    def kind(self) -> str:
        if self.asked_as is not None:
            return self.asked_as
        if self.verify is not None:
            return VERIFIED
        if all(item.choices for item in self.items):
            return CHOICE
        numbers = all(number_in(item.answer) is not None for item in self.items)
        plain = all(len(item.answer.split()) == 1 for item in self.items)
        return NUMBER if numbers and plain else TEXT

    @property
    def chance(self) -> float:
        """The accuracy of a model that knows nothing."""
        if self.kind != CHOICE:
            return 0.0
        return sum(1 / len(item.choices) for item in self.items) / len(self.items)

    @cached_property
    def units(self) -> tuple[tuple[Item, ...], ...]:
        """The items by group; those without one are alone."""
        groups: dict[str, list[Item]] = {}
        for item in self.items:
            groups.setdefault(f"group {item.group}" if item.group else f"item {item.id}", [])
            groups[f"group {item.group}" if item.group else f"item {item.id}"].append(item)
        return tuple(tuple(items) for items in groups.values())

    def drawn(self, seed: int, shots: int, most: int) -> Task:
        """The task with its first items as examples, the others in the seed's order, and of the
        units no more than ``most`` (0: all)."""
        examples, rest = self.items[:shots], replace(self, items=self.items[shots:])
        if not rest.items:
            raise ConfigurationError(
                f"task {self.name}: {shots} examples leave none of its {len(self.items)} items to "
                "measure; ask for fewer shots in [tasks]"
            )
        units = list(rest.units)
        random.Random(f"{seed}:{self.name}").shuffle(units)
        chosen = [item for unit in units[: most or None] for item in unit]
        return replace(self, items=tuple(chosen), examples=examples)


@dataclass(frozen=True)
class AskedTask:
    """A task as the procedure sees it. ``digest`` tells its items, their order, the prompts with
    chat template and examples, and how answers are read; ``problem`` is why it cannot be run,
    ``note`` what is to be known of how it is asked."""

    name: str
    kind: str
    units: int
    chance: float
    digest: str
    problem: str
    note: str = ""


def read_task(path: Path, name: str = "") -> Task:
    """The task of a JSONL file, which is called as the file is."""
    lines = read_objects(path)
    records = ((f"{path}:{number}", record) for number, record in lines)
    return task_from(records, name or path.stem)


def task_from(records: Iterable[tuple[str, Mapping[str, Any]]], name: str) -> Task:
    """The task of records, each with where it stands."""
    items = tuple(_item(where, record, f"{index}") for index, (where, record) in enumerate(records))
    if not items:
        raise ConfigurationError(f"task {name} has no items")
    if len({item.id for item in items}) < len(items):
        raise ConfigurationError(f"task {name}: two items have one id; ids are unique")
    if len({bool(item.choices) for item in items}) > 1:
        raise ConfigurationError(
            f"task {name}: some items have choices and some do not; make two files of them"
        )
    return Task(name, items)


def _item(where: str, record: Mapping[str, Any], default_id: str) -> Item:
    try:
        question, answer = record["question"], record["answer"]
        choices = tuple(str(choice) for choice in record.get("choices", ()))
        if not isinstance(question, str) or not question.strip():
            raise TypeError("question is a text")
        right = _right_choice(answer, choices) if choices else str(answer).strip()
        if not right or isinstance(answer, bool | list | dict) or answer is None:
            raise TypeError("answer is a text or a number")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{where}: no item ({error}); write "
            '{"question": "…", "answer": "…"}, with "choices": ["…", "…"] for multiple choice'
        ) from error
    group = str(record.get("group", ""))
    return Item(str(record.get("id", default_id)), question, right, choices, group)


def _right_choice(answer: Any, choices: tuple[str, ...]) -> str:
    if len(set(choices)) < len(choices) or len(choices) < 2:
        raise ValueError(f"choices are two or more different texts, got {choices!r}")
    if answer in choices:
        return str(answer)
    place = answer if isinstance(answer, int) else LETTERS.find(str(answer))
    if isinstance(answer, bool) or not 0 <= place < len(choices) or str(answer) == "":
        raise ValueError(f"answer {answer!r} is no choice, letter or place from 0")
    return choices[place]
