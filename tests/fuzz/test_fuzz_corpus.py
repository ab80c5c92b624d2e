"""Random documents: each corpus is read, or refused in a sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import cases, refusal
from documents import DEEP, altered, damaged, json_bytes
from hypothesis import example, given
from hypothesis import strategies as st
from infopt_suites.gates.semantic_cache.semantic_pairs import read_pairs

from pytest_infopt.corpus import Document, corpus_fingerprint, load_corpus
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.release import CorpusSource

RECORD = {"id": "d1", "text": "some words", "more": [1, None]}
LINE = altered(RECORD).map(json_bytes) | damaged(json_bytes(RECORD)) | DEEP
TEXT = st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))
FILES = st.dictionaries(
    st.sampled_from(["a.jsonl", "b.jsonl", "c.txt", "d.md", "e.csv", "[f].txt", "g.JSONL"]),
    st.lists(LINE | TEXT | st.binary(max_size=20), max_size=4).map(b"\n".join),
    max_size=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("corpus")


@cases(smoke=60, fuzz=10_000)
@example({"a.jsonl": b'{"text": "\\ud800"}'})
@example({"a.jsonl": b"[" * 100_000})
@given(FILES)
def test_any_files(folder: Path, files: dict[str, bytes]) -> None:
    for path in folder.iterdir():
        path.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found: list[Document] = []
    source = CorpusSource(files=(Path("*"),))
    message = refusal(ConfigurationError, lambda: found.extend(load_corpus(source, folder)))
    assert message is None or "corpus" in message
    assert (message is None) == bool(found)
    assert len({document.id for document in found}) == len(found)
    assert all(document.text.strip().encode() for document in found)
    assert corpus_fingerprint(found) == corpus_fingerprint(reversed(found))


PAIR = {"query": "a", "other": "b", "same_answer": True, "category": "c"}


@cases(smoke=30, fuzz=5000)
@example(b'{"query": "\xff", "other": "b", "same_answer": true}')
@example('{"query": "a\u2028", "other": "b", "same_answer": true}'.encode())
@given(altered(PAIR).map(json_bytes) | damaged(json_bytes(PAIR)) | DEEP)
def test_any_pairs(folder: Path, line: bytes) -> None:
    path = folder / "pairs.jsonl"
    path.write_bytes(line)
    message = refusal(ConfigurationError, lambda: read_pairs(path))
    assert message is None or str(path) in message
