"""Random JSON and TOML: values as people write them, values as nobody does, and damage to bytes."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.sampled_from([0, -1, 1, 2, 64, 2**31, 2**63, 10**30, 0.5, 1e300, math.inf, math.nan])
WORDS = st.sampled_from(
    ["", " ", "auto", "off", "int8", "cpu", "../x", "a:b", "a b", "0.4x", "5 %", "\x00", "é", "𝄞"]
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.floats() | WORDS | st.text(max_size=8)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
DEEP = st.sampled_from([b"[" * 5000, b'{"a":' * 5000, b"[" * 100_000])


def json_bytes(value: Any) -> bytes:
    """As Python writes it, NaN and lone surrogates included."""
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The bytes with one to three places overwritten, cut out, doubled or cut off after."""
    data = whole
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.integers(0, 12)))
        how = draw(st.sampled_from(["overwrite", "cut", "double", "end"]))
        middle = {
            "overwrite": draw(st.binary(max_size=8)),
            "cut": b"",
            "double": data[start:stop] * 2,
            "end": b"",
        }[how]
        data = data[:start] + middle + (b"" if how == "end" else data[stop:])
    return data


def altered(value: Any) -> st.SearchStrategy[Any]:
    """The JSON value with one or two of its parts, at any depth, replaced or taken out."""
    return _altered(value) | _altered(value).flatmap(_altered)


@st.composite
def _altered(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 3)) == 0:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: draw(_altered(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(_altered(value[place])), *value[place + 1 :]]
    return draw(JSON)


def toml(tables: dict[str, Any]) -> str:
    """A TOML text of nested tables; a value that TOML has no form for is left out."""
    return "".join(f"{_key(key)} = {_toml(value)}\n" for key, value in tables.items())


def _key(key: str) -> str:
    return _toml(str(key))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inside = (f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value if v is not None) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        plain = value.encode("utf-8", "replace").decode()
        return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "0" if value is None else repr(value)
