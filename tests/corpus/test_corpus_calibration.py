"""Calibration texts: enough, fixed, and never what a model is judged on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.corpus import load_corpus
from pytest_infopt.corpus.calibration import DOCUMENTS, calibration_documents, calibration_texts
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.release import CorpusSource

WINDOW = 60  # characters: longer than headings and phrases that any two texts share


def windows(text: str) -> set[str]:
    """All windows of consecutive characters, blanks squeezed."""
    plain = " ".join(text.split())
    return {plain[i : i + WINDOW] for i in range(len(plain) - WINDOW + 1)}


def test_no_calibration_paragraph_is_in_the_embedded_corpus(tmp_path: Path) -> None:
    judged = {
        paragraph
        for document in load_corpus(CorpusSource(), tmp_path)
        for paragraph in document.text.split("\n\n")
    }
    calibrating = {p for _, text in calibration_texts() for p in text.split("\n\n")}
    assert not judged & calibrating


def test_calibration_texts_share_next_to_nothing_with_the_embedded_corpus(tmp_path: Path) -> None:
    judged = set[str]().union(
        *(windows(document.text) for document in load_corpus(CorpusSource(), tmp_path))
    )
    shared = [
        len(found & judged) / len(found)
        for document in calibration_documents({}, tmp_path)
        if (found := windows(document.text))
    ]
    # Grammar rules and standing phrases are quoted on several pages of the language reference.
    assert sum(shared) / len(shared) <= 0.01


def test_embedded_calibration_texts_are_enough_and_fixed(tmp_path: Path) -> None:
    documents = calibration_documents({}, tmp_path)
    assert documents == calibration_documents({}, tmp_path)
    assert len(documents) == DOCUMENTS
    assert len({d.id for d in documents}) == len({d.text for d in documents}) == DOCUMENTS
    assert all(500 <= len(d.text) <= 2000 for d in documents)
    assert len(calibration_texts()) >= 3 * DOCUMENTS
    pages = {d.id.rpartition("/")[0] for d in documents}
    assert len(pages) >= DOCUMENTS / 2


def test_fewer_documents_are_the_first_of_more(tmp_path: Path) -> None:
    few = calibration_documents({"calibration_documents": 5}, tmp_path)
    assert few == calibration_documents({"calibration_documents": 40}, tmp_path)[:5]


@pytest.mark.parametrize("patterns", ["texts/*.txt", ["texts/*.txt", "texts/0.txt"]])
def test_files_of_ones_own_replace_the_embedded_texts(tmp_path: Path, patterns: Any) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(4):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number}")
    documents = calibration_documents({"calibration": patterns}, tmp_path)
    assert {d.text for d in documents} == {f"text {n}" for n in range(4)}
    absolute = {"calibration": str(tmp_path / "texts" / "*.txt")}
    assert {d.text for d in calibration_documents(absolute, Path())} == {d.text for d in documents}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibration": 3}, "calibration is 3; give a glob or a list of globs"),
        ({"calibration": [3]}, "give a glob"),
        ({"calibration": "none/*.txt"}, "no file matches"),
        ({"calibration_documents": 0}, "calibration_documents is 0; give a whole number of 1"),
        ({"calibration_documents": True}, "calibration_documents is True"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        calibration_documents(options, tmp_path)
