"""BatcherSuite kills faulty batchers that wait in threads, and spares sound ones, in real time."""

from __future__ import annotations

from typing import Any

import pytest
from batchers import AREA
from infopt_suites.batching import BatcherSuite, EmbeddingBatcherSuite, batcher_trial
from properties import claimed_tests, declared, run_property
from threaded_batchers import MUTANTS, SOUND, QueueThread, TextsInAThread, ThreadedMutant


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_batcher_is_killed(
    mutant: ThreadedMutant, counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher_trial, "REAL_PATIENCE", 0.5)
    counted("mutant", AREA)
    attributes = declared(BatcherSuite, mutant.fault)
    with pytest.raises(AssertionError):
        run_property(BatcherSuite, mutant.broken, attributes, make_batcher=mutant.fault)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batcher", "name"),
    [(made, name) for made in SOUND for name in claimed_tests(BatcherSuite, made.capabilities)],
)
def test_a_sound_batcher_is_spared(batcher: Any, name: str, counted: Any) -> None:
    try:
        run_property(BatcherSuite, name, declared(BatcherSuite, batcher), make_batcher=batcher)
    except LookupError as skipped:
        pytest.skip(str(skipped))
    counted("sound", AREA)


@pytest.mark.slow
@pytest.mark.parametrize("name", claimed_tests(EmbeddingBatcherSuite, TextsInAThread.capabilities))
def test_a_sound_embedding_batcher_is_spared(name: str, counted: Any) -> None:
    attributes, made = declared(EmbeddingBatcherSuite, TextsInAThread), TextsInAThread
    try:
        run_property(EmbeddingBatcherSuite, name, attributes, make_embedding_batcher=made)
    except LookupError as skipped:
        pytest.skip(str(skipped))
    counted("sound", AREA)


def test_what_depends_on_times_is_not_tried_on_the_real_clock() -> None:
    names = claimed_tests(BatcherSuite, QueueThread.capabilities)
    attributes = declared(BatcherSuite, QueueThread)
    timed = "test_items_submitted_together_share_calls"
    assert timed in names
    with pytest.raises(LookupError, match="virtual is False"):
        run_property(BatcherSuite, timed, attributes, make_batcher=QueueThread)
