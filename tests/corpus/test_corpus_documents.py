"""Corpus files, the embedded corpus, fingerprints, tokens and order."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.corpus import Document, corpus_fingerprint, load_corpus, shuffled, tokenise
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.judge.planning import fewest_documents
from pytest_infopt.release import CorpusSource, Statistics


def load(root: Path, *patterns: str) -> list[Document]:
    return load_corpus(CorpusSource(files=tuple(map(Path, patterns))), root)


def refusal(root: Path, *patterns: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        load(root, *patterns)
    return str(raised.value)


def test_files_become_documents_in_sorted_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text("markdown")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfmarked\r\ntext")
    (tmp_path / "c.jsonl").write_text(
        '{"text": "own id", "id": 7}\n\n{"text": "line \u2028 three", "extra": 1}\n',
        encoding="utf-8",
    )
    documents = load(tmp_path, "*.jsonl", "**/*.md", "a.txt", "*.txt")
    assert documents == [
        Document("a.txt", "marked\ntext"),
        Document("7", "own id"),
        Document("c.jsonl:3", "line \u2028 three"),
        Document("deep/b.md", "markdown"),
    ]


def test_root_with_glob_characters(tmp_path: Path) -> None:
    root = tmp_path / "run[1]"
    root.mkdir()
    (root / "a.txt").write_text("text")
    assert [d.id for d in load(root, "*.txt")] == ["a.txt"]
    assert [d.id for d in load_corpus(CorpusSource(files=(Path("a.txt"),)), root)] == ["a.txt"]


def test_copies_are_dropped_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("same" if name != "c" else "other")
    with caplog.at_level(logging.WARNING):
        assert [d.id for d in load(tmp_path, "*.txt")] == ["a.txt", "c.txt"]
    assert "dropped 1 duplicate" in caplog.text


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (
            b'{"text": "a"}\n{"txt": "b"}\n',
            "bad.jsonl:2: has no text field with a string; fields: txt",
        ),
        (b'{"text": 5}\n', "bad.jsonl:1: has no text field"),
        (b'["a"]\n', "bad.jsonl:1: has to be a JSON object"),
        (b'{"text": "a"}\n\n{"text": \n', "bad.jsonl:3: not JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "bad.jsonl:2: byte 0xff is not UTF-8"),
        (b'{"text": "a"}\n{"text": "b\\ud800"}\n', r"bad.jsonl:2: \ud800 is half of a character"),
        (b'{"text": "a", "id": "\\udc00"}\n', r"bad.jsonl:1: \udc00 is half of a character"),
        (
            b'{"id": 1, "text": "a"}\n{"id": 1, "text": "b"}\n',
            "two different documents with the id '1'",
        ),
        (b"\n\n", "the corpus is empty"),
        (b'{"text": " "}\n', "the corpus is empty"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path: Path, content: bytes, place: str) -> None:
    (tmp_path / "bad.jsonl").write_bytes(content)
    assert place in refusal(tmp_path, "bad.jsonl")


def test_globs_without_files_and_other_suffixes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_text("x")
    assert "no file matches" in refusal(tmp_path, "*.txt")
    assert ".txt, .md, .jsonl" in refusal(tmp_path, "a.pdf")


def test_embedded_corpus_is_large_varied_and_fixed(tmp_path: Path) -> None:
    documents = load_corpus(CorpusSource(), tmp_path)
    assert documents == load_corpus(CorpusSource(), tmp_path)
    # Four times what a flawless candidate needs, so that one at half its limit can be decided.
    assert len(documents) >= 4 * fewest_documents(Statistics.alpha_pass)
    assert len({d.id for d in documents}) == len({d.text for d in documents}) == len(documents)
    written = [d for d in documents if not d.id.startswith("python/")]
    assert len(written) >= 36
    assert len({d.id.partition("/")[0] for d in written}) >= 8
    assert all(len(d.text) <= 1000 for d in documents if d.id.startswith("python/"))


def test_pieces_of_the_language_reference_share_no_paragraph(tmp_path: Path) -> None:
    pieces = [d for d in load_corpus(CorpusSource(), tmp_path) if d.id.startswith("python/")]
    paragraphs = [p for d in pieces for p in d.text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)


def test_fingerprint_follows_texts_and_ids_but_not_order() -> None:
    documents = [Document(str(n), f"text {n}") for n in range(5)]
    before = corpus_fingerprint(documents)
    assert corpus_fingerprint(reversed(documents)) == before
    assert corpus_fingerprint(documents[:-1]) != before
    assert corpus_fingerprint([Document("0", "other"), *documents[1:]]) != before
    # Ids and texts are delimited: moving a character between them is seen.
    assert corpus_fingerprint([Document("ab", "c")]) != corpus_fingerprint([Document("a", "bc")])


lengths = st.lists(st.integers(0, 30), min_size=1, max_size=20)


@given(lengths, st.integers(2, 10), st.integers(10, 25), st.integers(10, 40), st.integers(1, 25))
def test_tokenise_keeps_cuts_and_counts(
    sizes: list[int], least: int, most: int, window: int, documents: int
) -> None:
    source = CorpusSource(max_documents=documents, max_tokens=most, min_tokens=least)
    texts = [Document(str(n), "x" * size) for n, size in enumerate(sizes)]
    fitting = [n for n, size in enumerate(sizes) if size >= least][:documents]

    def encode(text: str, begins_with: str) -> list[int]:
        return list(range(len(text)))

    if not fitting:
        with pytest.raises(ConfigurationError, match="min_tokens"):
            tokenise(texts, encode, source, window)
        return
    corpus = tokenise(texts, encode, source, window)
    assert [d.id for d in corpus.documents] == [str(n) for n in fitting]
    expected = [min(sizes[n], most, window) for n in fitting]
    assert [len(d.token_ids) for d in corpus.documents] == expected
    assert corpus.tokens == sum(expected)
    assert corpus.cut == sum(sizes[n] > min(most, window) for n in fitting)
    reached = fitting[-1] + 1 if len(fitting) == documents else len(sizes)
    assert corpus.too_short == sum(size < least for size in sizes[:reached])


def test_a_window_below_the_shortest_document_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="context window"):
        tokenise([Document("a", "x")], lambda text: [1], CorpusSource(min_tokens=16), 8)


@given(st.integers(0, 2**32), st.integers(1, 50))
def test_order_depends_on_ids_and_seed_alone(seed: int, count: int) -> None:
    documents = [f"{n:03d}" for n in range(count)]
    order = shuffled(documents, seed)
    mixed = random.Random(seed + 1).sample(documents, count)
    assert shuffled(mixed, seed) == order
    assert sorted(order) == documents


def test_order_is_the_same_on_every_python_version() -> None:
    """Recorded once. Another order would break the pairing with journals of earlier runs."""
    assert "".join(shuffled("abcdefgh", 0)) == "ebfcadhg"


def test_packaged_documents_are_one_record_a_line() -> None:
    path = Path(__file__).parents[2] / "pytest_infopt" / "corpus" / "documents.jsonl"
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(set(record) == {"id", "text"} for record in records)
