"""From pydantic's errors to messages with file, line, key, what is expected, the nearest key."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ..errors import ConfigurationError
from ..naming import nearest
from .schema import ReleaseFile
from .toml_source import Key, TomlSource, place_in


def validate(source: TomlSource, schema: type[ReleaseFile]) -> ReleaseFile:
    """The file's content as a `ReleaseFile`.

    Raises ConfigurationError with one line per wrong key, in the file's order.
    """
    try:
        return schema.model_validate(source.values)
    except ValidationError as error:
        problems = [(details["loc"], _describe(details, schema)) for details in error.errors()]
    problems.sort(key=lambda problem: source.line(problem[0]))
    raise ConfigurationError(
        "\n".join(f"{place_in(source, key)}: {what}" for key, what in problems)
    )


def _describe(details: Any, schema: type[ReleaseFile]) -> str:
    key, value = details["loc"], details["input"]
    if details["type"] == "extra_forbidden":
        return f"unknown key{nearest(str(key[-1]), _keys_at(schema, key[:-1]))}"
    message: str = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        return message
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
