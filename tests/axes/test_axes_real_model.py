"""Axes on SmolLM2, in process and behind llama.cpp's server: sound sides, and one that is not."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from pytest_infopt import Answer, Equivalence, Side, assert_equivalent
from pytest_infopt.axes.prompts import corpus_texts
from pytest_infopt.engines.base import ModuleEngine, able
from pytest_infopt.engines.files.embedded import embedded_model, packaged_gguf
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import AxisNotExercisedError, NotEquivalentError
from pytest_infopt.release import ModelSource

pytestmark = pytest.mark.slow
MODEL = "embedded:smollm2"
CHUNKS, CACHES, COMPILED, VERSIONS = (
    "chunked/whole prefill",
    "cache dtype",
    "eager/compiled",
    "engine version",
)


def loaded(**more: Any) -> Any:
    return load_engine(ModelSource("smollm2", MODEL, dtype="float32", **more))


@pytest.fixture(scope="module")
def engine() -> Iterator[TransformersEngine]:
    found = loaded()
    yield found
    found.close()


@pytest.fixture(scope="module")
def prompts(engine: TransformersEngine) -> list[list[int]]:
    return [engine.encode(text, "tokenizer") for text in corpus_texts()[:4]]


def test_chunks_of_a_prefill(engine: TransformersEngine, prompts: list[list[int]]) -> None:
    found = assert_equivalent(engine, axis=CHUNKS, prompts=prompts)
    assert found.proof == "prefills took up to 6 passes"

    def forgetful(prompt: Any, size: int) -> Answer:
        """The second chunk sees nothing of the first."""
        parts = [engine.full_logits(part) for part in (prompt[:size], prompt[size:])]
        return Answer(logits=parts[-1], passes=len(parts))

    with pytest.raises(NotEquivalentError, match="passes"):
        assert_equivalent(Side(engine.full_logits, chunked=forgetful), axis=CHUNKS, prompts=prompts)


def test_cache_dtypes(engine: TransformersEngine, prompts: list[list[int]]) -> None:
    eight, four = loaded(kv_cache="int8"), loaded(kv_cache="int4")
    with pytest.raises(NotEquivalentError, match="float32 against int8"):
        assert_equivalent(engine, eight, axis=CACHES, prompts=prompts)
    granted = assert_equivalent(engine, eight, axis=CACHES, control=four, prompts=prompts)
    assert granted.proof == "float32 against int8"
    with pytest.raises(NotEquivalentError, match="the control may"):
        assert_equivalent(engine, four, axis=CACHES, control=eight, prompts=prompts)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_model(prompts: list[list[int]]) -> None:
    compiled = loaded()
    with pytest.raises(AxisNotExercisedError, match="nothing is compiled"):
        assert_equivalent(compiled, axis=COMPILED, prompts=prompts)
    for layer in able(compiled, ModuleEngine).module.model.layers:
        layer.compile(dynamic=True)  # one graph for all
    found = assert_equivalent(compiled, axis=COMPILED, prompts=prompts)
    assert found.proof == "compiled against the model's own code"


def test_two_implementations_of_attention(
    engine: TransformersEngine, prompts: list[list[int]]
) -> None:
    other = loaded()
    other.module.set_attn_implementation("eager")

    def version(side: TransformersEngine) -> Side:
        name = side.module.config._attn_implementation
        return Side(side.full_logits, settings={VERSIONS: name}, model=side.module)

    found = assert_equivalent(version(engine), version(other), axis=VERSIONS, prompts=prompts)
    assert found.proof == "sdpa against eager"


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[str]:
    """The address of llama.cpp's server with two slots."""
    pytest.importorskip("xllamacpp")
    file = packaged_gguf(embedded_model(MODEL))
    assert file is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parents[1] / "llama_cpp_server.py"
    command = [sys.executable, str(script), str(file), str(port), "4"]
    process = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health"):
                break  # it refuses until the model is loaded
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("axis", ["cold/warm", "concurrent/serial", "alone/batched"])
def test_a_server_of_four_slots(llama_cpp: str, axis: str) -> None:
    found = assert_equivalent(llama_cpp, axis=axis, new_tokens=8)
    assert isinstance(found, Equivalence)
