"""The embedded corpus: enough text for every gate, on every machine, with no download.

Two parts. ``documents.jsonl`` beside this file: short texts written for this package, in many
genres and languages, under the package's licence. And pieces of the Python language reference,
which every CPython carries as ``pydoc_data.topics``: up to 1,000 characters each, about 200 tokens.
That text changes with the Python version, and the corpus fingerprint with it.
"""

from __future__ import annotations

import json
from importlib.resources import files

# A topic's pages share their paragraphs with other topics and their style with each other; a few
# pieces of each of some eighty topics vary more than many pieces of the longest ones.
_PIECES_PER_TOPIC = 3
_LONGEST = 1000  # characters
_SHORTEST = 500


def embedded_texts() -> list[tuple[str, str]]:
    """(id, text) of every embedded document, in a fixed order."""
    return [*_written(), *_language_reference()]


def _written() -> list[tuple[str, str]]:
    text = (files("pytest_infopt") / "corpus" / "documents.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.split("\n") if line]
    return [(record["id"], record["text"]) for record in records]


def _language_reference() -> list[tuple[str, str]]:
    try:
        # Half a megabyte of text that few runs need; and some distributions leave pydoc out.
        from pydoc_data.topics import topics
    except ImportError:
        return []
    seen: set[str] = set()
    pieces = []
    for topic in sorted(topics):
        paragraphs = [p for p in dict.fromkeys(_paragraphs(topics[topic])) if p not in seen]
        seen.update(paragraphs)
        for number, text in enumerate(_pieces(paragraphs)[:_PIECES_PER_TOPIC], start=1):
            pieces.append((f"python/{topic}/{number}", text))
    return pieces


def _paragraphs(page: str) -> list[str]:
    """The page's paragraphs without headings' underlines and cross-reference boilerplate."""
    blocks = [block.strip("\n") for block in page.split("\n\n")]
    return [
        block
        for block in blocks
        if block.strip()
        and not set(block.splitlines()[-1].strip()) <= set("*=-~^")
        and not block.lstrip().startswith(("Related help topics:", "See also:"))
    ]


def _pieces(paragraphs: list[str]) -> list[str]:
    """Runs of whole paragraphs of at most _LONGEST characters; shorter than _SHORTEST are dropped.

    A single longer paragraph is cut at its last line end.
    """
    pieces: list[str] = []
    current = ""
    for paragraph in paragraphs:
        longer = f"{current}\n\n{paragraph}" if current else paragraph
        if len(longer) <= _LONGEST:
            current = longer
            continue
        pieces.append(current)
        current = paragraph if len(paragraph) <= _LONGEST else _cut(paragraph)
    pieces.append(current)
    return [piece for piece in pieces if len(piece) >= _SHORTEST]


def _cut(paragraph: str) -> str:
    end = paragraph.rfind("\n", 0, _LONGEST)
    return paragraph[: end if end > 0 else _LONGEST]
