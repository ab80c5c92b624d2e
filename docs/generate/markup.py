"""Markdown that the pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    """Text on one line, in which a bar does not end the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Inline code."""
    return f"`{text}`"


def prose(docstring: str) -> str:
    """A docstring as Markdown: double backticks become single ones, and a word that is meant for
    pytest alone goes."""
    text = docstring.replace("PYTEST_DONT_REWRITE: it times.", "").replace(
        "PYTEST_DONT_REWRITE", ""
    )
    return re.sub(r"``([^`]+)``", r"`\1`", text).strip()


def first_sentence(docstring: str) -> str:
    """What the docstring says before its first full stop or colon at a line's end."""
    paragraph = prose(docstring).split("\n\n")[0]
    return re.split(r"(?<=\.)\s", " ".join(paragraph.split()))[0]


def page(title: str, *parts: str) -> str:
    """A page of these parts; says that nobody edits it."""
    note = "<!-- Written by docs/generate from the code; edit the code, not this file. -->"
    return "\n\n".join([note, f"# {title}", *(part for part in parts if part)]) + "\n"
