"""A teacher's text, parted into reasoning and answer.

    <think>reasoning</think>answer

    no tags           all of it is the answer
    closed only       some templates open the tag in the prompt: up to the last close, reasoning
    opened only       the text was cut off: it has no answer
    nested            what is inside of any is reasoning, up to the outermost close
    repeated          each is reasoning; what stands outside of all is the answer

Contract. Every character but the tags is in one of the two, in order; parts are joined by line ends
and stripped. Tags are told apart from text by their spelling alone, upper or lower case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

_NUMBER = re.compile(r"(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)")


@dataclass(frozen=True)
class Reasoned:
    """What a teacher thought, and what it answered; either may be empty."""

    reasoning: str
    answer: str


def part_reasoning(text: str, tag: str = "think") -> Reasoned:
    """Reasoning and answer of a text, by ``<tag>`` and ``</tag>``."""
    pieces = re.split(rf"(</?{re.escape(tag)}>)", text, flags=re.IGNORECASE)
    thought: list[str] = []
    said: list[str] = []
    depth = 0
    for piece in pieces:
        mark = piece.lower()
        if mark == f"<{tag.lower()}>":
            depth += 1
        elif mark == f"</{tag.lower()}>":
            if depth == 0:  # opened in the prompt: all that came before was reasoning
                thought, said = [*thought, *said], []
            depth = max(depth - 1, 0)
        else:
            (thought if depth else said).append(piece.strip())
    return Reasoned(_joined(thought), _joined(said))


def last_number(answer: str) -> Decimal | None:
    """The last number of an answer, such as 7.5, 1,000 or −3; None where there is none.

    Give the answer and not the reasoning, whose numbers are others.
    """
    found = _NUMBER.findall(answer.replace("\N{MINUS SIGN}", "-"))
    return Decimal(found[-1].replace(",", "").replace("$", "")) if found else None


def _joined(pieces: list[str]) -> str:
    return "\n".join(piece for piece in pieces if piece)
