"""Text from models, prompts and users made safe and measured in terminal cells.

What a model says must neither move a cursor, nor start a line, nor command a CI runner.
"""

from __future__ import annotations

from unicodedata import category, east_asian_width

NO_BREAK = "\u00a0"
EMOJI_SELECTOR = "\ufe0f"  # makes the character before it one cell wider


def cells(text: str) -> int:
    """How many terminal cells the text takes at most, by the Unicode tables (UAX #11).

    Wide and fullwidth characters take two, marks drawn on another character none. rich and wcwidth
    join sequences into one wide glyph, which not every terminal does.
    """
    return len(text) if text.isascii() else sum(map(_cells_of, text))


def visible(text: str) -> str:
    r"""The text on one line: every unprintable character as an escape, ESC as ``\x1b``.

    Unprintable in Python's sense (``str.isprintable``): controls, line separators, bidirectional
    and zero-width formats, lone surrogates, unassigned code points, and spaces other than U+0020.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def quoted(text: str) -> str:
    """The text in quotes, so that a space, a line break and a backslash can be told apart."""
    return repr(text)


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of at most ``width`` cells, all of them indented; words too long are cut in pieces.

    The text must be visible; runs of spaces become one, no-break spaces (U+00A0) become spaces and
    hold their words together. ``width`` must leave two cells beside the indent: a wide character.
    """
    room = width - cells(indent)
    if room < 2:
        raise ValueError(f"width {width} leaves {room} cells beside the indent; it takes two")
    lines: list[str] = []
    for word in filter(None, text.split(" ")):
        if lines and cells(lines[-1]) + 1 + cells(word) <= room:
            lines[-1] += f" {word}"
        else:
            lines += _pieces(word, room)
    return [defused(indent + line.replace(NO_BREAK, " ")) for line in lines]


def _cells_of(character: str) -> int:
    if character == EMOJI_SELECTOR:
        return 1
    if category(character) in ("Mn", "Me"):
        return 0
    return 2 if east_asian_width(character) in ("W", "F") else 1


def _pieces(word: str, room: int) -> list[str]:
    """The word cut into as few pieces of at most ``room`` cells as it takes."""
    if cells(word) <= room:
        return [word]
    pieces = [""]
    taken = 0
    for character in word:
        width = _cells_of(character)
        if taken + width > room:
            pieces.append("")
            taken = 0
        pieces[-1] += character
        taken += width
    return pieces


def defused(line: str) -> str:
    """The line with whatever a CI runner would obey taken apart, at equal width.

    GitHub's runner takes a line that begins with ``::`` after spaces as a command, and the older
    form ``##[`` anywhere; Azure's takes ``##vso[``.
    """
    body = line.lstrip()
    if body.startswith("::"):
        line = line[: len(line) - len(body)] + ":·" + body[2:]
    return line.replace("##[", "#·[").replace("##vso[", "#·vso[")
