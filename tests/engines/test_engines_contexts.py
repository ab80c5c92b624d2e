"""Engines whose library keeps sequences in contexts: their passes, on a library that is made up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_tokenizer

from pytest_infopt.engines.base import CannotCropError
from pytest_infopt.engines.contexts.context import Column
from pytest_infopt.engines.contexts.engine import ContextEngine
from pytest_infopt.errors import InfoptError, NonFiniteLogitsError

VOCABULARY, WINDOW = 11, 24
BROKEN = 10  # the token whose logits are NaN


class FakeContext:
    """Logits that follow from all that a sequence holds, by position, as a KV cache keeps it."""

    def __init__(self, tokens: int, sequences: int, *, crops: bool = True) -> None:
        self.room = tokens
        self.held: list[dict[int, int]] = [{} for _ in range(sequences)]
        self.crops = crops
        self.closed = 0

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        longest = max(map(len, self.held))
        return {"tokens": torch.zeros(len(self.held), longest, dtype=torch.int8)}

    def compute(self, columns: Sequence[Column]) -> torch.Tensor:
        rows = []
        for column in columns:
            held = self.held[column.sequence]
            assert column.position == len(held) < self.room
            held[column.position] = column.token
            if column.wanted:
                rows.append(expected(list(held.values())))
        return torch.stack(rows) if rows else torch.empty(0, VOCABULARY)

    def take_back(self, sequence: int, start: int) -> bool:
        if self.crops:
            kept = self.held[sequence]
            self.held[sequence] = {place: kept[place] for place in kept if place < start}
        return self.crops

    def clear(self) -> None:
        self.held = [{} for _ in self.held]

    def close(self) -> None:
        self.closed += 1


class FakeModel:
    vocabulary, nbytes = VOCABULARY, 40

    def __init__(self, *, crops: bool = True) -> None:
        self.crops = crops
        self.contexts: list[FakeContext] = []
        self.closed = 0

    def context(self, tokens: int, sequences: int = 1) -> FakeContext:
        self.contexts.append(FakeContext(tokens, sequences, crops=self.crops))
        return self.contexts[-1]

    def close(self) -> None:
        self.closed += 1


def expected(history: Sequence[int]) -> torch.Tensor:
    """The logits [V] behind a text; the order of its tokens counts."""
    if BROKEN in history:
        return torch.full((VOCABULARY,), float("nan"))
    seed = 0
    for token in history:
        seed = (seed * 31 + token + 1) % 2**31
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed))


def whole(ids: Sequence[int]) -> torch.Tensor:
    return torch.stack([expected(ids[: end + 1]) for end in range(len(ids))])


def fake_engine(**options: bool) -> tuple[ContextEngine, FakeModel]:
    model: Any = FakeModel(**options)
    engine = ContextEngine(
        "fake",
        model,
        make_tokenizer(),
        fingerprint="",
        context_window=WINDOW,
        dtype="float32",
        capabilities=frozenset(),
    )
    return engine, model


def texts(most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, BROKEN - 1), min_size=1, max_size=most)


@given(st.lists(texts(8), min_size=1, max_size=4), st.data())
def test_every_way_through_the_cache_comes_to_the_logits_of_the_whole(
    prompts: list[list[int]], data: st.DataObject
) -> None:
    engine, model = fake_engine()
    longest = max(map(len, prompts))
    sizes = [data.draw(st.integers(1, longest))]
    while (left := longest - sum(sizes)) and data.draw(st.booleans()):
        sizes.append(data.draw(st.integers(1, left)))
    rejected = data.draw(st.lists(st.integers(0, BROKEN - 1), max_size=3))
    alone = [engine.full_logits(prompt) for prompt in prompts]
    ways = [engine.batch_logits(prompts), engine.through_cache(prompts, sizes, rejected)]
    for rows in (alone, *ways):
        for row, prompt in zip(rows, prompts, strict=True):
            assert torch.equal(row, whole(prompt))
    assert all(context.closed == 1 for context in model.contexts[1:])


@given(texts(12).filter(lambda ids: len(ids) > 1), st.data())
def test_the_tail_is_the_wholes(ids: list[int], data: st.DataObject) -> None:
    tail = data.draw(st.integers(1, len(ids) - 1))
    reads: dict[str, torch.Tensor] = {}
    found = fake_engine()[0].cached_tail(ids, tail, data.draw(st.integers(1, len(ids))), reads)
    assert torch.equal(found, whole(ids)[-tail:])
    assert reads["tokens"].shape == (1, len(ids))


@given(st.lists(texts(6), min_size=1, max_size=3))
def test_generated_tokens_are_greedy_and_the_streams(prompts: list[list[int]]) -> None:
    engine, _ = fake_engine()

    def greedy(ids: list[int], count: int) -> list[int]:
        for _ in range(count):  # the broken token cannot be the next one, or all that follow break
            ids = [*ids, int(expected(ids).argmax())]
        return ids[-count:]

    counts = [2 + index for index in range(len(prompts))]
    both = zip(prompts, counts, strict=True)
    assert engine.generate(prompts, counts) == [greedy(ids, count) for ids, count in both]
    events = list(engine.stream(prompts[0], 2))
    assert [event.token_id for event in events] == greedy(prompts[0], 2)
    assert [event.arrived for event in events] == sorted(event.arrived for event in events)


def test_requests_queue() -> None:
    engine, _ = fake_engine()

    async def both() -> list[list[int]]:
        await engine.open_streams(2)
        found = await asyncio.gather(engine.load_stream([1], 3), engine.load_stream([2], 3))
        return [[event.token_id for event in events] for events in found]

    assert asyncio.run(both()) == [engine.greedy_tokens([1], 3), engine.greedy_tokens([2], 3)]


def test_a_cache_that_takes_nothing_back_says_so() -> None:
    engine, _ = fake_engine(crops=False)
    with pytest.raises(CannotCropError):
        engine.through_cache([[1, 2, 3]], [1], [4])


def test_the_cache_is_timed_and_weighed_at_each_length() -> None:
    readings = fake_engine()[0].cache_readings([2, 7], batch=2, steps=3)
    assert [(each.tokens, each.batch, each.nbytes) for each in readings] == [(2, 2, 4), (7, 2, 14)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "takes 1…24"),
        ([1] * (WINDOW + 1), "25 tokens for model 'fake'; it takes 1…24"),
        ([VOCABULARY], "token id 11 is outside 0…10"),
        ([-1], "token id -1 is outside"),
    ],
)
def test_what_does_not_fit_is_refused(ids: list[int], message: str) -> None:
    engine, model = fake_engine()
    with pytest.raises(ValueError, match=message):
        engine.full_logits(ids)
    assert not model.contexts[0].held[0]


@pytest.mark.parametrize(("prompt", "count"), [([1], 0), ([1] * WINDOW, 1)])
def test_a_stream_is_refused_when_it_is_asked_for(prompt: list[int], count: int) -> None:
    with pytest.raises(ValueError, match=r"at least 1|takes 1…24"):
        fake_engine()[0].stream(prompt, count)


def test_nan_is_named_by_its_position() -> None:
    with pytest.raises(NonFiniteLogitsError, match="NaN at position 2"):
        fake_engine()[0].full_logits([1, 2, BROKEN])


def test_a_closed_engine_gives_all_back_once() -> None:
    engine, model = fake_engine()
    engine.close()
    engine.close()
    assert (model.contexts[0].closed, model.closed) == (1, 1)
    with pytest.raises(InfoptError, match="closed"):
        engine.full_logits([1])
