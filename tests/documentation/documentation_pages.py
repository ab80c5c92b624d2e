"""The written pages and their code blocks, as the tests of this folder take them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
GENERATED = DOCS / "reference"
PART = "# part of infopt.toml\n"  # how a block begins that is no release by itself

_FENCE = re.compile(
    r'^(?P<indent> *)```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^ *```$',
    flags=re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block; ``title`` is the file that the page calls it."""

    page: Path
    language: str
    title: str
    text: str
    line: int

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def written_pages() -> list[Path]:
    """README, CONTRIBUTING and every page of docs/ that a person wrote."""
    pages = [path for path in sorted(DOCS.rglob("*.md")) if GENERATED not in path.parents]
    return [README, ROOT / "CONTRIBUTING.md", *pages]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            found["language"],
            found["title"] or "",
            textwrap.dedent(found["text"]),
            text.count("\n", 0, found.start()) + 1,
        )
        for found in _FENCE.finditer(text)
    ]


def blocks(language: str) -> list[Block]:
    """Every block of a language, on every written page."""
    found = [b for page in written_pages() for b in blocks_of(page) if b.language == language]
    assert found, f"no page has a {language} block"
    return found


def files_of(page: Path) -> dict[str, str]:
    """The files that a page spells out: title and text."""
    return {block.title: block.text for block in blocks_of(page) if block.title}
