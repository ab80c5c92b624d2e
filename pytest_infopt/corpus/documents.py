"""Reading documents from .txt, .md and .jsonl files, or from the embedded corpus."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..release import CorpusSource
from ..strict_json import parse
from .embedded import embedded_texts

logger = logging.getLogger(__name__)

SUFFIXES = (".txt", ".md", ".jsonl")


@dataclass(frozen=True)
class Document:
    """One text; the unit of which errors are independent. ``id`` is unique in its corpus."""

    id: str
    text: str


def load_corpus(source: CorpusSource, root: Path) -> list[Document]:
    """The corpus: ``source.files`` (globs, relative ones below ``root``), else the embedded one.

    Files are read in sorted order. Blank documents and those whose text occurred before are
    dropped; the number of the latter is logged, because two copies are one sample and not two.
    ``source.max_documents`` is left to `shuffled` and its caller: a cut must follow the shuffle.

    Raises ConfigurationError for a glob without files, another suffix, text that is not UTF-8, a
    JSONL line that is no object with a text, ids used twice, and a corpus without documents.
    """
    if source.files:
        documents = [d for path in _paths(source.files, root) for d in _read(path, root)]
    else:
        documents = [Document(*item) for item in embedded_texts()]
    documents = _distinct([d for d in documents if d.text.strip()])
    if not documents:
        patterns = ", ".join(map(str, source.files))
        raise ConfigurationError(f"the corpus is empty: no text in {patterns}; see [corpus] files")
    return documents


def corpus_fingerprint(documents: Iterable[Document]) -> str:
    """SHA-256 of ids and texts, whatever their order.

    The embedded corpus changes with the Python version, so its fingerprint does, too: results
    from two Python versions are results on two corpora.
    """
    digest = hashlib.sha256()
    for document in sorted(documents, key=lambda d: d.id):
        digest.update(json.dumps([document.id, document.text]).encode())
    return digest.hexdigest()


def _paths(patterns: Iterable[Path], root: Path) -> list[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        # root may hold characters that globs interpret; the user's pattern is meant to.
        below = pattern if pattern.is_absolute() else Path(glob.escape(str(root))) / pattern
        matches = {Path(name) for name in glob.glob(str(below), recursive=True)}
        files = {path for path in matches if path.is_file()}
        if not files:
            raise ConfigurationError(f"the corpus is empty: no file matches {pattern}")
        found |= files
    return sorted(found)


def _read(path: Path, root: Path) -> list[Document]:
    if path.suffix not in SUFFIXES:
        raise ConfigurationError(
            f"{path}: a corpus file has to be one of {', '.join(SUFFIXES)}, not {path.suffix!r}"
        )
    name = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    return list(_records(path, name)) if path.suffix == ".jsonl" else [Document(name, _text(path))]


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The JSON objects of a .jsonl file, each with its line's number; blank lines are left out.

    Raises ConfigurationError naming file and line for a file that cannot be read, is not UTF-8, or
    holds anything else.
    """
    # Not splitlines(): JSON strings may hold U+2028 and other separators that it splits at.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield number, _object(f"{path}:{number}", line)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        # A byte-order mark would become a token that no ordinary text begins with.
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}:{line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from None


def _records(path: Path, name: str) -> Iterator[Document]:
    for number, record in read_objects(path):
        if not isinstance(record.get("text"), str):
            keys = ", ".join(record) or "none"
            raise ConfigurationError(
                f"{path}:{number}: has no text field with a string; fields: {keys}"
            )
        for value in (record["text"], str(record.get("id", ""))):
            if half := re.search("[\ud800-\udfff]", value):
                raise ConfigurationError(
                    f"{path}:{number}: {ascii(half[0])[1:-1]} is half of a character; write both "
                    "halves, or leave it out"
                )
        yield Document(str(record.get("id", f"{name}:{number}")), record["text"])


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        record = parse(line)
    except ValueError as error:
        raise ConfigurationError(f"{place}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ConfigurationError(f"{place}: has to be a JSON object")
    return record


def _distinct(documents: list[Document]) -> list[Document]:
    by_text: dict[str, Document] = {}
    for document in documents:
        by_text.setdefault(document.text.strip(), document)
    kept = list(by_text.values())
    if len(kept) < len(documents):
        logger.warning("corpus: dropped %d duplicate documents", len(documents) - len(kept))
    seen: set[str] = set()
    for document in kept:
        if document.id in seen:
            raise ConfigurationError(
                f"the corpus has two different documents with the id {document.id!r}; "
                "give every JSONL record its own id, or none"
            )
        seen.add(document.id)
    return kept
