"""Texts by which fields may be joined to one: whoever joins them takes two requests for one.

Two values of which one has the joint in it are joined to the same text as two others: "w|w" and "w"
as "w" and "w|w".
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_WORD = "w"
_CONTROLS = [chr(code) for code in (*range(32), 127)]
_MARKS = [*string.punctuation, " "]
_BETWEEN = (
    "",
    " ",
    ", ",
    ",",
    "&",
    "|",
    "\n",
    "\n\n",
    ";",
    "; ",
    "/",
)  # name and value, and the next name
_AFTER_NAMES = (":", "=", ": ")
_QUOTED = (
    '","{}":"',
    '", "{}": "',
    "', '{}': '",
    "'), ('{}', '",
    "' {}='",
    "</{0}><{0}>",
    "<|{}|>",
    "<|im_end|>\n<|im_start|>{}\n",
    "[{}] ",
)

# Nothing, every mark and control character once, twice and thrice, and marks with spaces.
JOINTS: tuple[str, ...] = (
    "",
    *(count * mark for mark in [*_MARKS, *_CONTROLS] for count in (1, 2, 3)),
    *(form.format(mark) for mark in string.punctuation for form in ("{} ", " {}", " {} ")),
)
MARKS: tuple[str, ...] = ("", *_MARKS, "\n", "\t", "\0")


def around(word: str) -> tuple[str, ...]:
    """Joints with the word in them, a field's name or a role."""
    marked = [f"{mark}{word}{mark}" for mark in ("", *_MARKS, "\n")]
    named = [f"{mark}{word}{after}" for mark in _BETWEEN for after in _AFTER_NAMES]
    return (*marked, *named, *(form.format(word) for form in _QUOTED))


class Cut(NamedTuple):
    """A text that is ``before``, ``joint`` and ``after``."""

    before: str
    joint: str
    after: str


def cuts(joints: Sequence[str]) -> tuple[str, Iterator[Cut]]:
    """A text that has all joints in it, and the text cut at each of them."""
    pieces = [_WORD]
    for joint in joints:
        pieces += [joint, _WORD]
    text = "".join(pieces)

    def each() -> Iterator[Cut]:
        place = 0
        for piece, joint in zip(pieces[::2], joints, strict=False):
            place += len(piece)
            yield Cut(text[:place], joint, text[place + len(joint) :])
            place += len(joint)

    return text, each()
