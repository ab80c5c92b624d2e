"""From pydantic's errors to messages with file, line, key, what is expected, the nearest key."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..errors import ConfigurationError
from .schema import ReleaseFile
from .toml_source import Key, TomlSource


def validate(source: TomlSource, schema: type[ReleaseFile]) -> ReleaseFile:
    """The file's content as a `ReleaseFile`.

    Raises ConfigurationError with one line per wrong key, in the file's order.
    """
    try:
        return schema.model_validate(source.values)
    except ValidationError as error:
        problems = [(details["loc"], _describe(details, schema)) for details in error.errors()]
    problems.sort(key=lambda problem: source.line(problem[0]))
    lines = [f"{source.place(key)}: {spell(key)}: {what}" for key, what in problems]
    raise ConfigurationError("\n".join(lines))


def spell(key: Key) -> str:
    """A key as TOML writes it, without quotes: candidates.int8.dtype.

    An implementation that the file gives no name has the key "" below its topic.
    """
    return ".".join(str(part) for part in key if part != "")


def nearest(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?' with the nearest known word, else '; known: …'."""
    known = list(known)
    close = get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(known)}" if known else ""


def _describe(details: Any, schema: type[ReleaseFile]) -> str:
    key, value = details["loc"], details["input"]
    if details["type"] == "extra_forbidden":
        return f"unknown key{nearest(str(key[-1]), _keys_at(schema, key[:-1]))}"
    message: str = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        _, known_separator, known = message.partition("; known: ")
        close = get_close_matches(str(value), known.split(", "), n=1) if known_separator else []
        return message + (f"; did you mean {close[0]}?" if close else "")
    if details["type"] == "string_pattern_mismatch":
        return f'has to be written "module:name", not {value!r}'
    if details["type"] in ("dict_type", "model_type"):
        return f"has to be a table, not {value!r}"
    return f"{message[0].lower()}{message[1:]}, not {value!r}"


def _keys_at(schema: type[ReleaseFile], key: Key) -> list[str]:
    """The valid keys of the table that ``key`` leads to."""
    table: Any = schema
    for part in key:
        if isinstance(table, type) and issubclass(table, BaseModel):
            table = table.model_fields[str(part)].annotation
        elif get_origin(table) is dict:
            table = get_args(table)[1]
    return list(table.model_fields)
