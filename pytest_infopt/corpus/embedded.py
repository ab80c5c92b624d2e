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
LONGEST = 1000  # characters
_SHORTEST = 500


def embedded_texts() -> list[tuple[str, str]]:
    """(id, text) of every embedded document, in a fixed order."""
    return [*_written(), *_language_reference()]


def _written() -> list[tuple[str, str]]:
    text = (files("pytest_infopt") / "corpus" / "documents.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.split("\n") if line]
    return [(record["id"], record["text"]) for record in records]


def pages() -> list[tuple[str, str]]:
    """(name, text) of every page of the Python language reference; none where pydoc has no data."""
    try:
        # Half a megabyte of text that few runs need; and some distributions leave pydoc out.
        from pydoc_data.topics import topics
    except ImportError:
        return []
    return [(topic, topics[topic]) for topic in sorted(topics)]


def _language_reference() -> list[tuple[str, str]]:
    seen: set[str] = set()
    found = []
    for topic, page in pages():
        fresh = [p for p in dict.fromkeys(paragraphs(page)) if p not in seen]
        seen.update(fresh)
        for number, text in enumerate(pieces(fresh)[:_PIECES_PER_TOPIC], start=1):
            found.append((f"python/{topic}/{number}", text))
    return found


def paragraphs(page: str) -> list[str]:
    """The page's paragraphs without headings' underlines and cross-reference boilerplate."""
    blocks = [block.strip("\n") for block in page.split("\n\n")]
    return [
        block
        for block in blocks
        if block.strip()
        and not set(block.splitlines()[-1].strip()) <= set("*=-~^")
        and not block.lstrip().startswith(("Related help topics:", "See also:"))
    ]


def pieces(paragraphs: list[str], longest: int = LONGEST) -> list[str]:
    """Runs of whole paragraphs of at most ``longest`` characters; those below 500 are dropped.

    A single longer paragraph is cut at its last line end.
    """
    runs: list[str] = []
    current = ""
    for paragraph in paragraphs:
        longer = f"{current}\n\n{paragraph}" if current else paragraph
        if len(longer) <= longest:
            current = longer
            continue
        runs.append(current)
        current = paragraph if len(paragraph) <= longest else cut(paragraph, longest)
    runs.append(current)
    return [run for run in runs if len(run) >= _SHORTEST]


def cut(paragraph: str, longest: int = LONGEST) -> str:
    """The paragraph up to its last line end within ``longest`` characters."""
    if len(paragraph) <= longest:
        return paragraph
    end = paragraph.rfind("\n", 0, longest)
    return paragraph[: end if end > 0 else longest]
