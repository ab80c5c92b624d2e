"""A URL as an engine: what its server tells is what the model behind it computes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from openai_server_fake import Behaviour, FakeServer, cut, openai_server, renamed, status
from tiny_models import make_model, make_tokenizer

from pytest_infopt.engines.base import Capability, GreedyEngine, TopScoresEngine, able
from pytest_infopt.engines.openai.engine import OpenAIEngine
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import ConfigurationError, InvalidComparisonError, ModelLoadError
from pytest_infopt.measure.timing import time_request
from pytest_infopt.release import ModelSource, ServerSource

MODEL = TransformersEngine("tiny", make_model("qwen2"), make_tokenizer(), dtype=torch.float32)
CONFIG = '{"vocab_size": 128, "max_position_embeddings": 96, "dtype": "float32"}'
IDS = [7, 90, 21, 64, 35, 118, 3, 55]
# Passes over other numbers of tokens round in another order; sums of 64 float32 products.
ROUNDING = 64 * float(torch.finfo(torch.float32).eps)
ANY_SERVER = {Capability.GREEDY, Capability.COUNTS, Capability.LOAD, Capability.STREAM}
DIALECTS = ["vllm", "llama.cpp", "openai", "text"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a release has of a served model: its tokenizer and its configuration."""
    folder = tmp_path_factory.mktemp("served")
    MODEL.tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(CONFIG)
    return folder


@contextmanager
def served(
    checkpoint: Path, dialect: str, options: dict[str, Any] | None = None, **behaviour: Any
) -> Iterator[tuple[OpenAIEngine, FakeServer]]:
    with openai_server(MODEL, Behaviour(dialect, **behaviour)) as server:
        source = ModelSource(
            "served",
            str(checkpoint),
            engine="openai",
            options=options or {},
            server=ServerSource(server.url, timeout_seconds=20),
        )
        engine = load_engine(source)
        assert isinstance(engine, OpenAIEngine)
        try:
            yield engine, server
        finally:
            engine.close()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_capabilities_are_observed(checkpoint: Path, dialect: str) -> None:
    with served(checkpoint, dialect) as (engine, _):
        found = engine.dialect
        assert found.name == ("openai" if dialect == "text" else dialect)
        told = {Capability.TOP_SCORES} if dialect != "text" else set()
        assert engine.capabilities == {*ANY_SERVER, *told}
        assert found.takes_ids is (dialect != "text")
        assert found.scores_texts is (dialect in ("vllm", "openai"))
        assert found.ignores_end is (dialect != "text")
        assert (engine.vocabulary, engine.context_window) == (128, 64)  # the server's is shorter
        assert engine.tokenizer_fingerprint == MODEL.tokenizer_fingerprint


@pytest.mark.parametrize("dialect", DIALECTS)
def test_greedy_tokens_are_the_models(checkpoint: Path, dialect: str) -> None:
    with served(checkpoint, dialect) as (engine, _):
        assert able(engine, GreedyEngine).greedy_tokens(IDS, 6) == MODEL.greedy_tokens(IDS, 6)


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "openai"])
def test_top_scores_are_the_models(checkpoint: Path, dialect: str) -> None:
    positions = [0, 2, len(IDS) - 2, len(IDS) - 1]
    with served(checkpoint, dialect) as (engine, _):
        rows = able(engine, TopScoresEngine).top_scores(IDS, positions)
        assert len(rows) == len(positions)
        for position, row in zip(positions, rows, strict=True):
            exact = torch.log_softmax(MODEL.full_logits(IDS).double(), -1)[position]
            assert set(exact.topk(5).indices.tolist()) <= row.keys()
            assert all(math.isclose(v, float(exact[t]), rel_tol=ROUNDING) for t, v in row.items())
            if engine.scores_texts and position < len(IDS) - 1:
                assert IDS[position + 1] in row


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_has_as_many_tokens_as_were_asked_for(checkpoint: Path, dialect: str) -> None:
    with served(checkpoint, dialect) as (engine, _):
        timing = time_request(engine, IDS, 6)
        assert timing.token_ids == MODEL.greedy_tokens(IDS, 6)
        assert 0 < timing.ttft <= timing.e2e


@pytest.mark.parametrize("dialect", ["vllm", "openai"])
@pytest.mark.parametrize("shift", [-1, 1])
def test_misaligned_log_probabilities_are_refused(
    checkpoint: Path, dialect: str, shift: int
) -> None:
    """A row that is told for a position is that of the position ``shift`` further on."""
    with (
        pytest.raises(InvalidComparisonError, match=re.escape(f"misaligned (shift {shift:+d})")),
        served(checkpoint, dialect, shift=shift),
    ):
        pass
    with served(checkpoint, dialect, {"log_probs": False}, shift=shift) as (engine, _):
        assert engine.capabilities == ANY_SERVER


def test_wrong_usage_is_named(checkpoint: Path) -> None:
    for dialect in DIALECTS:
        with served(checkpoint, dialect) as (engine, server):
            server.behaviour.counts = 3
            with pytest.raises(InvalidComparisonError, match="counts 9 tokens of an answer"):
                engine.greedy_tokens(IDS, 6)
            with pytest.raises(InvalidComparisonError, match="counts 9 tokens of an answer"):
                list(engine.stream(IDS, 6))


def test_a_server_that_fails_for_the_moment_gives_the_same_tokens(checkpoint: Path) -> None:
    with served(checkpoint, "vllm") as (engine, server):
        server.behaviour.faults = [status(429, Retry_After="0"), status(500, Retry_After="0")]
        assert engine.greedy_tokens(IDS, 6) == MODEL.greedy_tokens(IDS, 6)
        assert not server.behaviour.faults


def test_a_timed_stream_is_not_repeated(checkpoint: Path) -> None:
    """The wait for a repetition is no time to the first token."""
    with served(checkpoint, "vllm") as (engine, server):
        for fault in (status(429, Retry_After="0"), cut):
            server.behaviour.faults = [fault]
            asked = len(server.bodies)
            with pytest.raises(InvalidComparisonError, match=r"429|cut|peer closed"):
                time_request(engine, IDS, 6)
            assert len(server.bodies) == asked + 1


def test_another_model_behind_the_name_is_noticed(checkpoint: Path) -> None:
    with served(checkpoint, "vllm") as (engine, server):
        server.behaviour.faults = [renamed("another")]
        with pytest.raises(InvalidComparisonError, match="answers as model 'another'"):
            engine.greedy_tokens(IDS, 6)


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp"])
def test_another_tokenizer_is_noticed(tmp_path: Path, dialect: str) -> None:
    other = make_tokenizer()
    words = {f"w{i}": (i + 1) % 128 for i in range(128)}
    other.backend_tokenizer.model = type(other.backend_tokenizer.model)(words, unk_token="w0")
    other.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(CONFIG)
    with (
        pytest.raises(InvalidComparisonError, match="tokenizer: server"),
        served(tmp_path, dialect),
    ):
        pass


def test_a_release_that_names_too_little(checkpoint: Path, tmp_path: Path) -> None:
    nowhere = ModelSource("served", str(checkpoint), engine="openai")
    with pytest.raises(ConfigurationError, match="name its url in a table server"):
        load_engine(nowhere)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="has no tokenizer"), served(tmp_path, "vllm"):
        pass
    with (
        pytest.raises(ConfigurationError, match=r"has no options group_size"),
        served(checkpoint, "vllm", {"group_size": 8}),
    ):
        pass
    with (
        pytest.raises(InvalidComparisonError, match="0 models"),
        served(checkpoint, "vllm", listed=False),
    ):
        pass


def test_a_prompt_that_a_text_cannot_hold_is_refused(checkpoint: Path) -> None:
    with (
        served(checkpoint, "text") as (engine, _),
        pytest.raises(InvalidComparisonError, match="is read as others"),
    ):
        engine.greedy_tokens([*IDS, 10**9], 2)
