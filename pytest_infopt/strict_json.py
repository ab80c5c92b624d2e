"""JSON that every parser reads: no bare NaN or Infinity, ASCII only, and nothing lost.

A number that JSON cannot hold (RFC 8259, section 6) is written as null, and the document's top
level gets a key ``nonfinite`` that maps its place (a JSON Pointer, RFC 6901) to "NaN", "Infinity"
or "-Infinity": the null has its reason beside it, and reading restores the number.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from enum import Enum
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any, NoReturn

NONFINITE = "nonfinite"


def dumps(document: Mapping[str, Any], *, indent: int | None = None) -> str:
    """The document as strict JSON, one line unless ``indent`` is given, keys in the given order.

    Tuples become arrays, enum members their values, numpy scalars plain numbers. Raises TypeError
    naming the place of anything else that JSON has no form for, ValueError for a document that uses
    the key ``nonfinite`` itself.
    """
    if NONFINITE in document:
        raise ValueError(f"the key {NONFINITE!r} is reserved by strict_json; rename the field")
    places: dict[str, str] = {}
    plain = _plain(document, "", places)
    if places:
        plain[NONFINITE] = places
    return json.dumps(plain, indent=indent, ensure_ascii=True, allow_nan=False)


def loads(text: str) -> dict[str, Any]:
    """The document of `dumps`; ValueError for anything that is not one strict JSON object."""
    document = parse(text, parse_constant=_refuse_constant)
    if not isinstance(document, dict):
        raise ValueError(f"expected a JSON object, found {type(document).__name__}")
    for pointer, number in document.pop(NONFINITE, {}).items():
        _restore(document, pointer, float(number))
    return document


def parse(text: str | bytes, **options: Any) -> Any:
    """`json.loads`, with a ValueError for what is nested too deeply for it, too."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_atomically(path: Path, text: str) -> None:
    """Replace the file in one step: a reader, or a killed run, sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target (os.replace cannot cross file systems), made by open() so that umask holds.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any, pointer: str, places: dict[str, str]) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return _finite(float(value), pointer, places)
    if isinstance(value, Mapping):
        return {_key(k, pointer): _plain(v, _child(pointer, k), places) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{pointer}/{i}", places) for i, item in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(
        f"{pointer or '/'} holds a {type(value).__name__}; results carry JSON data only "
        "(numbers, strings, lists, dictionaries): convert it where it is measured"
    )


def _finite(number: float, pointer: str, places: dict[str, str]) -> float | None:
    if math.isfinite(number):
        return number
    places[pointer] = "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    return None


def _key(key: Any, pointer: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{pointer or '/'} has the key {key!r}; JSON objects have string keys only")
    return str(key.value) if isinstance(key, Enum) else key


def _child(pointer: str, key: str) -> str:
    return f"{pointer}/{str(key).replace('~', '~0').replace('/', '~1')}"


def _restore(document: dict[str, Any], pointer: str, number: float) -> None:
    parent: Any = None
    key: Any = None
    found: Any = document
    try:
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            parent, key = found, int(name) if isinstance(found, list) else name
            found = parent[key]
    except (KeyError, IndexError, TypeError, ValueError):
        found = pointer  # not null: reported below
    if parent is None or found is not None:
        raise ValueError(f"{NONFINITE} names {pointer!r}, where the document holds no null")
    parent[key] = number


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON")
