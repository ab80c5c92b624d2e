"""What a model wrote, and whether that is the right answer."""

from __future__ import annotations

import re
import string
from decimal import Decimal, InvalidOperation

_NUMBER = re.compile(r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|-?\$?\.\d+")


def number_in(text: str) -> Decimal | None:
    """The last number of a text, without thousands separators and dollar signs; None without one.

    The minus of a range or a difference (3-2) is no sign.
    """
    found = None
    for match in _NUMBER.finditer(text):
        written = match.group()
        if written.startswith("-") and match.start() and text[match.start() - 1].isalnum():
            written = written[1:]
        found = written
    if found is None:
        return None
    try:
        return Decimal(found.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None


def same_number(text: str, answer: str) -> bool:
    """Whether the last number of the text is the answer's: 18 is 18.0."""
    written = number_in(text)
    return written is not None and written == number_in(answer)


def same_text(text: str, answer: str) -> bool:
    """Whether the first line written is the answer, whatever its case, spaces and outer
    punctuation."""
    lines = text.strip().splitlines()
    return bool(lines) and _plain(lines[0]) == _plain(answer)


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(string.punctuation + " ").casefold()
