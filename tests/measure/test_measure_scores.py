"""The cache of the reference's scores: same bits, bounded, and never a reason to fail."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from measure_fakes import HiddenStateEngine, ToyTransformer, seeded_ids

from pytest_infopt.store.scores import ReferenceScores

IDS = seeded_ids("cached document", 20, ToyTransformer.vocabulary)


def entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def test_a_second_run_computes_nothing_and_reads_the_same_bits(tmp_path: Path) -> None:
    engine = HiddenStateEngine()
    first = ReferenceScores(tmp_path).of(engine, IDS).logits(0, 20)
    again = ReferenceScores(tmp_path).of(engine, IDS).logits(0, 20)
    assert engine.passes == 1
    assert torch.equal(first, again)
    assert torch.equal(first, engine.score(IDS).logits(0, 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_comes_back_as_itself(tmp_path: Path, dtype: torch.dtype) -> None:
    engine = HiddenStateEngine(dtype)
    cache = ReferenceScores(tmp_path)
    first, again = (cache.of(engine, IDS).hidden_states for _ in range(2))
    assert again.dtype == dtype
    assert torch.equal(first, again)


@pytest.mark.parametrize("change", ["fingerprint", "dtype", "ids", "threads"])
def test_whatever_could_change_a_bit_is_part_of_the_key(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, ids = HiddenStateEngine(), list(IDS)
    cache = ReferenceScores(tmp_path)
    cache.of(engine, ids)
    if change == "ids":
        ids[-1] = (ids[-1] + 1) % engine.vocabulary
    elif change == "threads":
        threads = torch.get_num_threads()
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    else:
        setattr(engine, change, "another")
    cache.of(engine, ids)
    assert engine.passes == 2
    assert len(entries(tmp_path)) == 2


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:-5])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "foreign":
        path.write_bytes(b"{ not tensors at all }")
    elif how == "another tensor":
        safetensors.torch.save_file({"weights": torch.ones(20, 3)}, path)
    elif how == "without provenance":
        safetensors.torch.save_file({"hidden_states": torch.ones(20, 48)}, path)
    elif how == "a directory":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "how",
    ["truncated", "empty", "foreign", "another tensor", "without provenance", "a directory"],
)
def test_a_damaged_entry_is_a_miss_with_a_warning(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = HiddenStateEngine()
    cache = ReferenceScores(tmp_path)
    expected = cache.of(engine, IDS).logits(0, 20)
    damaged(entries(tmp_path)[0], how)
    with caplog.at_level(logging.WARNING):
        found = cache.of(engine, IDS).logits(0, 20)
    assert torch.equal(found, expected)
    assert engine.passes == 2
    assert "computed anew" in caplog.text


def test_another_documents_entry_under_this_name_is_a_miss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = HiddenStateEngine()
    cache = ReferenceScores(tmp_path)
    cache.of(engine, IDS)
    mine = entries(tmp_path)[0]
    cache.of(engine, IDS[::-1])
    other = next(path for path in entries(tmp_path) if path != mine)
    mine.write_bytes(other.read_bytes())
    found = cache.of(engine, IDS).logits(0, 20)
    assert torch.equal(found, engine.score(IDS).logits(0, 20))
    assert "is not what its name says" in caplog.text


def test_the_entry_used_longest_ago_is_evicted(tmp_path: Path) -> None:
    engine = HiddenStateEngine()
    documents = [seeded_ids(f"document {n}", 20, engine.vocabulary) for n in range(3)]
    ReferenceScores(tmp_path).of(engine, documents[0])
    size = entries(tmp_path)[0].stat().st_size
    cache = ReferenceScores(tmp_path, max_bytes=2 * size)
    cache.of(engine, documents[1])
    for age, path in enumerate(sorted(entries(tmp_path), key=lambda p: p.stat().st_mtime_ns)):
        os.utime(path, (1000 + age, 1000 + age))
    cache.of(engine, documents[0])  # used again: now document 1 is the oldest
    cache.of(engine, documents[2])
    assert engine.passes == 3
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 2 * size
    cache.of(engine, documents[0])
    cache.of(engine, documents[2])
    assert engine.passes == 3
    cache.of(engine, documents[1])
    assert engine.passes == 4


def test_a_document_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    cache = ReferenceScores(tmp_path, max_bytes=100)
    cache.of(HiddenStateEngine(), IDS)
    assert entries(tmp_path) == []


def test_a_place_that_cannot_be_written_is_logged_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    engine = HiddenStateEngine()
    scores = ReferenceScores(blocked / "cache").of(engine, IDS)
    assert scores.positions == 20
    assert "cannot be" in caplog.text


def test_an_interrupted_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    ReferenceScores(tmp_path).of(HiddenStateEngine(), IDS)
    assert entries(tmp_path) == []


def test_an_engine_without_hidden_states_is_simply_asked(tmp_path: Path) -> None:
    scores = ReferenceScores(tmp_path).of(ToyTransformer(torch.float32), IDS)
    assert scores.positions == 20
    assert entries(tmp_path) == []


def test_an_engine_without_a_fingerprint_is_never_mistaken_for_another(tmp_path: Path) -> None:
    engine = HiddenStateEngine()
    engine.fingerprint = ""
    ReferenceScores(tmp_path).of(engine, IDS)
    assert entries(tmp_path) == []
