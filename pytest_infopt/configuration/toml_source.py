"""A TOML file that remembers on which line each key stands.

tomllib gives values without places. `TomlSource.line` finds them by walking the text once: table
headers, arrays of tables, dotted and quoted keys. A key inside an inline table or an array has the
line of the key that the whole value belongs to. The walk relies on tomllib having accepted the
text, so it skips values instead of checking them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

Key = tuple[str | int, ...]

_COMMENT = r"#[^\n]*"
_STRING = (
    r'"""(?:\\.|[^\\])*?"{3,5}'  # up to two quotes may stand before the closing three
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
)
_SKIPPED_IN_VALUES = re.compile(rf"{_STRING}|{_COMMENT}|[\[\]{{}}\n]|[^\"'#\[\]{{}}\n]+", re.DOTALL)
_BLANK = re.compile(rf"(?:\s+|{_COMMENT})+")
_KEY_PART = re.compile(rf"[ \t]*({_STRING}|[A-Za-z0-9_-]+)[ \t]*", re.DOTALL)


@dataclass(frozen=True)
class TomlSource:
    """A TOML file: its text, its parsed values below ``prefix`` and the lines of its keys.

    ``prefix`` is the table that holds our configuration: () in infopt.toml, ("tool", "infopt") in
    pyproject.toml; keys are given without it.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[Key, int]
    prefix: Key = ()

    def line(self, key: Key) -> int:
        """The line of the key, or of its nearest ancestor that has one; else 1."""
        full = self.prefix + key
        return next(
            (self.lines[full[:n]] for n in range(len(full), 0, -1) if full[:n] in self.lines), 1
        )

    def place(self, key: Key = ()) -> str:
        """``path:line`` of the key, as editors and terminals understand it; below the current
        directory the path is relative to it."""
        return f"{shown(self.path)}:{self.line(key)}"


def read_toml(path: Path, prefix: tuple[str, ...] = ()) -> TomlSource | None:
    """Parse the file; None if the table named by ``prefix`` is not in it.

    Raises ConfigurationError with file and line when the file cannot be read, is not UTF-8, or is
    not TOML.
    """
    text = _read_text(path)
    try:
        values: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(_syntax_message(path, text, error)) from None
    lines = key_lines(text)
    for part in prefix:
        values = values.get(part) if isinstance(values, dict) else None
    if values is None:
        return None
    source = TomlSource(path, values, lines, prefix)
    if not isinstance(values, dict):
        raise ConfigurationError(f"{source.place()}: {'.'.join(prefix)} has to be a table")
    return source


def shown(path: Path) -> Path:
    """The path as messages show it: relative to the current directory where it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")  # some editors begin a file with a byte-order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte {data[error.start]:#04x}"
        raise ConfigurationError(
            f"{shown(path)}:{line}: {byte} is no UTF-8; save it as UTF-8"
        ) from None


def _syntax_message(path: Path, text: str, error: tomllib.TOMLDecodeError) -> str:
    message = str(error)
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if place is None:
        return f"{shown(path)}: not valid TOML: {message}"
    line = place[1] or text.count("\n") + 1
    return f"{shown(path)}:{line}: not valid TOML: {message[: place.start()]}"


def key_lines(text: str) -> dict[Key, int]:
    """The line (from 1) of every table and key in a valid TOML text; the first, where a table is
    opened by several. Entries of arrays of tables carry their index: ("a", 0, "key")."""
    lines: dict[Key, int] = {}
    arrays: dict[Key, int] = {}  # array of tables: entries so far
    table: Key = ()
    for at, key, header in _statements(text.replace("\r\n", "\n")):
        if header is None:
            path = table + key
        else:
            path = table = _table_path(key, header, arrays)
        for n in range(1, len(path) + 1):
            lines.setdefault(path[:n], at)
    return lines


def _table_path(key: tuple[str, ...], header: str, arrays: dict[Key, int]) -> Key:
    """The table a header opens; a part that names an array of tables means its latest entry."""
    path: Key = ()
    for n, part in enumerate(key, start=1):
        path += (part,)
        if header == "[[" and n == len(key):
            arrays[path] = arrays.get(path, 0) + 1
        if path in arrays:
            path += (arrays[path] - 1,)
    return path


def _statements(text: str) -> Iterator[tuple[int, tuple[str, ...], str | None]]:
    """Line, key and kind ("[" and "[[" for headers, None for key = value) of each statement."""
    position = 0
    while (position := _skip_blank(text, position)) < len(text):
        line = text.count("\n", 0, position) + 1
        header = next((h for h in ("[[", "[") if text.startswith(h, position)), None)
        key, position = _read_key(text, position + len(header or ""))
        yield line, key, header
        position = _skip_value(text, position + len(header or "="))


def _skip_blank(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _read_key(text: str, position: int) -> tuple[tuple[str, ...], int]:
    parts: list[str] = []
    while match := _KEY_PART.match(text, position):
        parts.append(_unquote(match[1]))
        position = match.end()
        if not text.startswith(".", position):
            break
        position += 1
    return tuple(parts), position


def _unquote(part: str) -> str:
    # tomllib knows the escapes of quoted keys.
    return next(iter(tomllib.loads(f"{part} = 0")))


def _skip_value(text: str, position: int) -> int:
    """The position after the value: the first line end outside brackets and strings."""
    depth = 0
    while match := _SKIPPED_IN_VALUES.match(text, position):
        token, position = match[0], match.end()
        if token in ("[", "{"):
            depth += 1
        elif token in ("]", "}"):
            depth -= 1
        elif token == "\n" and depth <= 0:
            break
    return position


def place_in(source: TomlSource | None, key: Key) -> str:
    """Where a key stands, for messages: file, line and the key; or that nothing was read.

    An implementation that the file gives no name has the key "" below its topic.
    """
    if source is None:
        return "command line"
    return f"{source.place(key)}: {'.'.join(str(part) for part in key if part != '')}"
