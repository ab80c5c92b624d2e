"""Tables for people: every token and request is in them once, and percentiles are NumPy's."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.decoding import PassCosts
from infopt_suites.gates.latency.tables import MOST_PAIRS, PERCENTILES, latency_tables, pair_table
from infopt_suites.gates.memory.tables import category_table
from infopt_suites.gates.quality.tables import (
    MOST_DOCUMENTS,
    confidence_table,
    distribution_table,
    document_table,
)
from infopt_suites.gates.quality.training import STATE, training_table
from infopt_suites.gates.speculative.lookahead import LOOKAHEADS, lookahead_table

from pytest_infopt import Sample
from pytest_infopt.strict_json import dumps

losses = st.lists(st.floats(0, 1e3) | st.just(math.inf), min_size=1, max_size=30)


def document(name: str, kl: list[float]) -> Sample:
    values = {"kl_mean": math.fsum(kl) / len(kl), "top1_agreement": 1.0}
    return Sample(name, len(kl), values, tokens={"kl": kl})


@given(st.lists(losses, min_size=1, max_size=5))
def test_each_token_is_counted_once_where_its_loss_lies(curves: list[list[float]]) -> None:
    samples = [document(str(n), kl) for n, kl in enumerate(curves)]
    rows = distribution_table(samples).rows
    values = sorted(x for kl in curves for x in kl)
    assert sum(row[1] for row in rows) == len(values)
    assert math.isclose(math.fsum(row[2] for row in rows), 1.0)
    # The first step begins at or below the smallest, and the last at or below the largest loss;
    # steps are told to one digit, and half a step is a factor of ten to the half.
    assert float(rows[0][0]) <= values[0] * 2
    assert float(rows[-1][0]) <= values[-1] * 2


@given(st.lists(losses, min_size=1, max_size=2 * MOST_DOCUMENTS))
def test_documents_stand_in_the_order_of_their_loss(curves: list[list[float]]) -> None:
    table = document_table([document(str(n), kl) for n, kl in enumerate(curves)])
    means = [row[2] for row in table.rows]
    expected = sorted((math.fsum(kl) / len(kl) for kl in curves), reverse=True)
    assert means == expected[:MOST_DOCUMENTS]
    assert ("worst" in table.title) is (len(curves) > MOST_DOCUMENTS)


def test_an_empty_bucket_has_no_loss() -> None:
    (row,) = confidence_table([{"from": 0.5, "to": 0.75, "count": 0}]).rows
    assert row == ("0.5…0.75", 0, None, None)


def pair(theirs: float, ours: float) -> Sample:
    ratio = math.log(ours / theirs)
    return Sample(
        "pair", 2, {"ttft_ratio": ratio}, tokens={"ttft": [ours]},
        details={"reference": {"ttft": [theirs]}, "candidate_first": False},
    )  # fmt: skip


times = st.floats(1e-4, 10)


@given(st.lists(st.tuples(times, times), min_size=2, max_size=40))
def test_percentiles_are_numpys(pairs: list[tuple[float, float]]) -> None:
    timed, first, _ = latency_tables([pair(*each) for each in pairs])
    assert [row[2] for row in timed.rows] == pytest.approx([b / a for a, b in pairs])
    milliseconds = 1000 * np.array(pairs)
    for row, share in zip(first.rows, PERCENTILES, strict=True):
        assert row[1:] == pytest.approx(np.percentile(milliseconds, share, axis=0))


def test_what_was_not_timed_has_no_number() -> None:
    timed, first, further = latency_tables([pair(1.0, 2.0)])
    assert timed.rows == ((1, "reference", pytest.approx(2.0), None),)
    assert {cell for table in (first, further) for row in table.rows for cell in row[1:]} == {None}


@pytest.mark.parametrize("count", [MOST_PAIRS, MOST_PAIRS + 1, 5 * MOST_PAIRS])
def test_of_many_pairs_evenly_chosen_ones_are_shown(count: int) -> None:
    numbers = [row[0] for row in pair_table([pair(1.0, 2.0)] * count).rows]
    assert MOST_PAIRS / 2 <= len(numbers) <= MOST_PAIRS
    assert len(set(np.diff(numbers))) == 1


def test_memory_shows_what_either_model_has() -> None:
    reference = Sample("r", 1, {"weight_bytes": 2**21, "buffer_bytes": 0})
    candidate = Sample("c", 1, {"weight_bytes": 2**20, "peak_allocated_bytes": 2**22},
                       details={"batch": 2, "tokens": 9, "kv_bytes": 2**19})  # fmt: skip
    assert category_table(reference, candidate).rows == (
        ("weights", 2.0, 1.0),
        ("buffers", 0.0, None),
        ("peak allocated", None, 4.0),
        ("KV cache, 2 of 9 tokens", None, 0.5),
    )


@given(acceptance=st.floats(0.05, 0.95), lookahead=st.sampled_from(LOOKAHEADS))
def test_free_drafts_speed_up_by_the_tokens_of_a_pass(acceptance: float, lookahead: int) -> None:
    """Leviathan et al. 2023, equation 1: (1 − α^(k+1)) / (1 − α)."""
    tokens = (1 - acceptance ** (lookahead + 1)) / (1 - acceptance)
    sample = Sample("prompt", 1, {}, details={"tokens": 1000 * tokens, "passes": 1000})
    table = lookahead_table(PassCosts(lambda size: 0.25, 0.0), [sample], lookahead)
    observed = table.rows[0][1]
    found = {row[0]: row[2] for row in table.rows if row[1] == observed}
    assert set(found) == set(LOOKAHEADS)
    assert found[lookahead] == pytest.approx(tokens, rel=1e-6)


@given(st.lists(st.tuples(st.integers(1, 999), st.floats(0, 99), st.booleans()), min_size=1))
def test_a_trainers_losses_are_all_in_the_table(
    tmp_path_factory: pytest.TempPathFactory, logged: list[tuple[int, float, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("student")
    history = [
        {"step": step, "eval_loss" if held_out else "loss": loss, "epoch": 1.0}
        for step, loss, held_out in logged
    ]
    text = dumps({"log_history": [*history, {"step": 9, "train_runtime": 2.5}]})
    (folder / STATE).write_text(text, encoding="utf-8")
    table = training_table(folder)
    assert table is not None
    names = {False: "trained on", True: "held out"}
    expected = [(step, names[held_out], loss) for step, loss, held_out in logged]
    assert sorted(map(repr, table.rows)) == sorted(map(repr, expected))


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"log_history": [{"loss": 1}]}',
                                  '{"log_history": []}', '{"log_history": 5}'])  # fmt: skip
def test_a_candidate_that_no_trainer_left_has_no_curves(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / STATE).write_text(text, encoding="utf-8")
    assert training_table(tmp_path) is None
