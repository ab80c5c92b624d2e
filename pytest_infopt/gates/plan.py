"""Plans: what a gate is told of its size, as a table of infopt.toml.

A plan is a frozen dataclass. Its class name gives the table's name, its fields the keys:

    @dataclass(frozen=True)
    class LongContextPlan(Plan):                # [long_context]
        texts: int = setting(1, "Texts of each length.", ge=1)

The schema of infopt.toml, the fingerprint by which a run is resumed, and the documentation are made
from these fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast

Value = TypeVar("Value")
_KEY = "setting"


@dataclass(frozen=True)
class Plan:
    """Base of all plans. ``table`` is the name of its table in infopt.toml."""

    table: ClassVar[str] = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        words = re.findall(r"[A-Z][a-z0-9]*", cls.__name__.removesuffix("Plan"))
        cls.table = "_".join(words).lower()


@dataclass(frozen=True)
class Setting:
    """What may be written for a field: a sentence about it, and limits.

    ``limits`` are keywords of pydantic's Field (``ge``, ``gt``, ``le``, ``pattern``, …); ``each``
    are those of a list's members; ``check`` returns the value or raises ValueError.
    """

    description: str
    limits: Mapping[str, Any]
    each: Mapping[str, Any]
    check: Callable[[Any], Any] | None


def setting(
    default: Value,
    description: str,
    *,
    each: Mapping[str, Any] | None = None,
    check: Callable[[Any], Any] | None = None,
    **limits: Any,
) -> Value:
    """A field of a plan, with its default and what `Setting` says of it."""
    known = Setting(description, limits, each or {}, check)
    return field(default=default, metadata={_KEY: known})


def setting_of(metadata: Mapping[str, Any]) -> Setting:
    """The setting of a dataclass field; an empty one for a field that was declared without."""
    return cast(Setting, metadata.get(_KEY, Setting("", {}, {}, None)))


def rising(numbers: list[Any]) -> list[Any]:
    """A check: the numbers rise."""
    if sorted(set(numbers)) != numbers:
        raise ValueError(f"the numbers have to rise, got {numbers}")
    return numbers


def one_of(what: str, *words: str) -> Callable[[str], str]:
    """A check: the text is one of these words; ``what`` is what they are called."""

    def check(text: str) -> str:
        if text not in words:
            raise ValueError(f"unknown {what} {text!r}; known: {', '.join(words)}")
        return text

    return check
