"""Pass keys in long texts, and divergence by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from infopt_suites.gates.long_context.gate import NEEDLES
from infopt_suites.gates.long_context.needles import Needle, finds, hidden_keys, measure_needles
from infopt_suites.gates.long_context.texts import bucket_divergences, bucket_table

from pytest_infopt import Sample
from pytest_infopt.engines.whole_scores import WholeScores

VOCABULARY = 128  # bytes are tokens
HAY, SAME = ord("h"), 12
Scorer = Callable[[Sequence[int]], WholeScores]


def encode(text: str) -> list[int]:
    return list(text.encode())


def needles(lengths: Sequence[int], count: int) -> list[Needle]:
    return list(hidden_keys(encode, lambda size, index: [HAY] * size, lengths, count))


def reader(sight: int, confidence: float = 20.0) -> Scorer:
    """Scores of a model that copies: behind a text it says what followed the same bytes the last
    time before, among the last ``sight`` tokens, else nothing in particular."""

    def score(ids: Sequence[int]) -> WholeScores:
        rows = torch.zeros(len(ids), VOCABULARY)
        for place in range(len(ids) - 8, len(ids)):  # where a key is asked for
            last = list(ids[place - SAME + 1 : place + 1])
            for earlier in range(place - 1, max(SAME, place - sight), -1):
                if list(ids[earlier - SAME + 1 : earlier + 1]) == last:
                    rows[place, ids[earlier + 1]] = confidence
                    break
        return WholeScores(rows)

    return score


def test_keys_lie_at_even_depths_and_texts_have_the_length_asked_for() -> None:
    found = needles([300, 500], 3)
    assert [len(each.token_ids) for each in found] == [300] * 3 + [500] * 3
    assert [each.depth for each in found] == [0.25, 0.5, 0.75] * 2
    for each in found:
        key = bytes(each.token_ids[-each.answer :])
        text = bytes(each.token_ids)
        assert text.count(key) == 3  # in the sentence, twice, and as the answer
        assert text.endswith(b"The pass key is" + key)
        start = text.index(b"\nThe pass key is")
        assert start == pytest.approx(each.depth * text.count(b"h", 0), abs=8)
    assert len({bytes(each.token_ids[-5:]) for each in found}) == 6


def test_texts_that_are_more_needle_than_hay_have_none() -> None:
    assert needles([60, 120], 3) == []
    assert needles([400], 0) == []


def test_a_model_that_sees_less_loses_the_keys_that_lie_deep() -> None:
    sample = measure_needles(needles([300, 500], 3), reader(500), reader(200))
    (table,) = sample.details["tables"]
    lost = [tuple(row[:2]) for row in table["rows"] if row[3] == "not found"]
    assert lost == [(300, 0.25), (500, 0.25), (500, 0.5)]
    assert all(row[2] == "found" for row in table["rows"])
    assert sample.values == {NEEDLES.name: 3.0}
    assert measure_needles(needles([300], 3), reader(500), reader(500)).values[NEEDLES.name] == 0


def test_what_the_reference_does_not_find_or_is_not_sure_of_does_not_count() -> None:
    texts = needles([500], 3)
    unsure = reader(500, confidence=2.0)  # the most probable token, at 5 %
    assert all(finds(unsure(each.token_ids), each) for each in texts)
    for reference in (unsure, reader(10)):
        sample = measure_needles(texts, reference, reader(10))
        assert sample.values == {}
        assert "none of 3 pass keys" in sample.details["not_judged"][NEEDLES.name]
    assert measure_needles(texts, reader(200), reader(10)).weight == 1  # the last third alone


@pytest.mark.parametrize("count", [2, 100, 129, 600])
def test_buckets_cover_every_position_once(count: int) -> None:
    """The candidate is worse by one nat of logit from position 256 on."""
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, VOCABULARY, generator=generator)
    worse = logits.clone()
    worse[256:, 0] += 1
    ids = torch.randint(VOCABULARY, (count,), generator=generator).tolist()
    found = bucket_divergences(WholeScores(logits), WholeScores(worse), ids, torch.float32)
    edges = [tuple(map(int, name.split("–"))) for name in found]
    assert edges[0][0] == 0
    assert edges[-1][1] == count - 1
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    log_p, log_q = logits.double().log_softmax(-1), worse.double().log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    for (start, stop), value in zip(edges, found.values(), strict=True):
        assert value == pytest.approx(float(kl[start:stop].mean()), rel=1e-4, abs=1e-9)
        assert (value > 0) is (stop > 256)


def test_the_table_has_a_column_for_each_bucket_and_gaps() -> None:
    short = Sample("a", 1, {}, details={"tokens": 101, "buckets": {"0–100": 0.5}})
    long = Sample("b", 1, {}, details={"tokens": 201, "buckets": {"0–128": 0.1, "128–200": 0.2}})
    table = bucket_table([long, short])
    assert table.columns == ("tokens", "0–100", "0–128", "128–200")
    assert table.rows == ((101, 0.5, None, None), (201, None, 0.1, 0.2))
