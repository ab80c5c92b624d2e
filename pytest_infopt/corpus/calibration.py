"""Texts that calibrated quantizers may look at: never those that a model is judged on.

By default the parts of the Python language reference that the embedded corpus leaves out (it takes
a few pieces of each page), and the docstrings of standard library modules: technical English with
code, up to 2,000 characters each, about 500 tokens. No paragraph is one of the embedded corpus's;
copies inside longer texts are not looked for. As there, the texts change with the Python version.
"""

from __future__ import annotations

import ast
import functools
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..release import CorpusSource
from .documents import Document, load_corpus
from .embedded import cut, embedded_texts, pages, paragraphs, pieces
from .tokens import shuffled

_LONGEST = 2000  # characters
DOCUMENTS = 32
TOKENS = 512


def calibration_documents(options: dict[str, Any], root: Path) -> list[Document]:
    """The texts that a source's options name: ``calibration`` (globs, relative ones below
    ``root``; by default the embedded texts), at most ``calibration_documents`` of them, 32 unless
    said, in an order that depends on their ids alone.

    Raises ConfigurationError for options of another type and for globs without files.
    """
    count = positive(options, "calibration_documents", DOCUMENTS)
    patterns = options.get("calibration", [])
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
        raise ConfigurationError(
            f"option calibration is {patterns!r}; give a glob or a list of globs, as [corpus] files"
        )
    if patterns:
        files = tuple(Path(pattern).expanduser() for pattern in patterns)
        documents = load_corpus(CorpusSource(files=files), root)
    else:
        documents = [Document(*item) for item in calibration_texts()]
    by_id = {document.id: document for document in documents}
    return [by_id[name] for name in shuffled(by_id, seed=0)[:count]]


@functools.cache  # a second of reading, and every calibrated candidate asks several times
def calibration_texts() -> tuple[tuple[str, str], ...]:
    """(id, text) of every embedded calibration text, in a fixed order."""
    judged = {part for _, text in embedded_texts() for part in text.split("\n\n")}
    seen: set[str] = set()
    texts = []
    for name, page in [*pages(), *_module_docstrings()]:
        # A long paragraph is in the corpus with its first part alone.
        fresh = [
            p for p in dict.fromkeys(paragraphs(page)) if not {p, cut(p)} & judged and p not in seen
        ]
        seen.update(fresh)
        for number, text in enumerate(pieces(fresh, _LONGEST), start=1):
            texts.append((f"calibration/{name}/{number}", text))
    return tuple(texts)


def positive(options: dict[str, Any], name: str, default: int) -> int:
    """An option that has to be a whole number of 1 or more; ConfigurationError for another."""
    value = options.get(name, default)
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"option {name} is {value!r}; give a whole number of 1 or more")
    return value


def _module_docstrings() -> Iterator[tuple[str, str]]:
    # From the sources, not from imported modules: some have side effects, -OO strips docstrings.
    for path in _standard_library():
        try:
            docstring = ast.get_docstring(ast.parse(path.read_bytes()))
        except (OSError, SyntaxError, ValueError):
            continue
        if docstring:
            yield f"library/{path.stem}", docstring


def _standard_library() -> Iterable[Path]:
    return sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*.py"))
