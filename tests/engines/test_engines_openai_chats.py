"""Servers that complete chats only: what they are asked, and what they cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from infopt_suites.gates.tasks.answers import written
from openai_server_fake import Behaviour, FakeServer, openai_server, status
from tiny_models import make_model, make_tokenizer

from pytest_infopt.engines.base import Capability, completes_chats_only
from pytest_infopt.engines.openai.engine import OpenAIEngine
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.measure.timing import time_request
from pytest_infopt.release import ModelSource, ServerSource

TEMPLATE = "w99 {% for m in messages %}w98 {{ m['content'] }} w97{% endfor %} w96"
MESSAGE = "w7 w90 w21 w64 w35"
COUNT = 6
ROUNDING = 64 * float(torch.finfo(torch.float32).eps)  # sums of 64 float32 products


def chatting() -> TransformersEngine:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return TransformersEngine("tiny", make_model("qwen2"), tokenizer, dtype=torch.float32)


MODEL = chatting()
CHAT = MODEL.encode(MESSAGE, "chat")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chatting")
    MODEL.tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"vocab_size": 128, "dtype": "float32"}')
    return folder


def loaded(checkpoint: Path, server: FakeServer, **options: bool) -> OpenAIEngine:
    source = ServerSource(server.url, timeout_seconds=20)
    engine = load_engine(
        ModelSource("served", str(checkpoint), engine="openai", options=options, server=source)
    )
    assert isinstance(engine, OpenAIEngine)
    return engine


@pytest.fixture(params=[True, False], ids=["scores", "texts alone"])
def scores(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def engine(checkpoint: Path, scores: bool) -> Iterator[OpenAIEngine]:
    with openai_server(MODEL, Behaviour("chat", scores=scores)) as server:
        found = loaded(checkpoint, server)
        yield found
        found.close()


def test_a_server_without_completions_is_asked_for_chats(
    engine: OpenAIEngine, scores: bool
) -> None:
    assert completes_chats_only(engine)
    assert not completes_chats_only(MODEL)
    assert (Capability.TOP_SCORES in engine.capabilities) is scores
    assert not engine.scores_texts


def test_a_chat_has_the_models_tokens(engine: OpenAIEngine, scores: bool) -> None:
    expected = MODEL.greedy_tokens(CHAT, COUNT)
    assert engine.greedy_tokens(CHAT, COUNT) == expected
    assert time_request(engine, CHAT, COUNT).token_ids == expected
    answer = engine.counted_answer(CHAT, COUNT)
    assert answer.token_ids == tuple(expected)
    assert len(answer.rows) == (COUNT if scores else 0)


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "openai", "chat"])
def test_rows_of_an_answer_are_the_models(checkpoint: Path, dialect: str) -> None:
    with openai_server(MODEL, Behaviour(dialect)) as server:
        engine = loaded(checkpoint, server)
        answer = engine.counted_answer(CHAT, COUNT)
        engine.close()
    whole = [*CHAT, *answer.token_ids]
    exact = torch.log_softmax(MODEL.full_logits(whole).double(), -1)[len(CHAT) - 1 :]
    assert len(answer.rows) == COUNT
    for row, own in zip(answer.rows, exact, strict=False):
        assert len(row) == 5
        assert all(math.isclose(v, float(own[t]), rel_tol=ROUNDING) for t, v in row.items())


def test_the_row_behind_a_chat_is_the_models(checkpoint: Path) -> None:
    with openai_server(MODEL, Behaviour("chat")) as server:
        engine = loaded(checkpoint, server)
        (row,) = engine.top_scores(CHAT, [len(CHAT) - 1])
        with pytest.raises(InvalidComparisonError, match="no message of a user"):
            engine.top_scores(CHAT, [len(CHAT) - 2])
        engine.close()
    exact = torch.log_softmax(MODEL.full_logits(CHAT).double(), -1)[-1]
    assert max(row, key=row.__getitem__) == int(exact.argmax())


def test_what_is_no_chat_is_refused_where_tokens_count(engine: OpenAIEngine) -> None:
    with pytest.raises(InvalidComparisonError, match="completes chats only"):
        engine.greedy_tokens(MODEL.encode(MESSAGE), COUNT)
    assert len(list(engine.stream(MODEL.encode(MESSAGE), COUNT))) == COUNT  # a time counts alone


def test_another_template_is_noticed(checkpoint: Path) -> None:
    other = chatting()
    other.tokenizer.chat_template = f"w95 {TEMPLATE}"
    with openai_server(other, Behaviour("chat")) as server:
        engine = loaded(checkpoint, server)
        with pytest.raises(InvalidComparisonError, match="read 10 prompt tokens where 9 were sent"):
            engine.greedy_tokens(CHAT, COUNT)
        engine.close()


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "chat"])
def test_a_written_answer_ends_where_the_server_ends_it(checkpoint: Path, dialect: str) -> None:
    """A timed stream goes on behind the end token."""
    tokens = MODEL.greedy_tokens(CHAT, COUNT)
    place = next(i for i in range(1, COUNT) if tokens[i] not in tokens[:i])
    with openai_server(MODEL, Behaviour(dialect, end=tokens[place])) as server:
        engine = loaded(checkpoint, server)
        assert written(engine, CHAT, COUNT, []) == MODEL.decode(tokens[:place])
        assert [event.token_id for event in engine.stream(CHAT, COUNT)] == tokens
        engine.close()


def test_a_tokenizer_without_a_template_is_named(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"vocab_size": 128}')
    with (
        openai_server(MODEL, Behaviour("chat")) as server,
        pytest.raises(InvalidComparisonError, match="has no chat template; save that"),
    ):
        loaded(tmp_path, server)


def test_a_release_may_ask_for_chats(checkpoint: Path) -> None:
    """The option decides, not what else there is: this server has completions alone."""
    with (
        openai_server(MODEL, Behaviour("vllm")) as server,
        pytest.raises(InvalidComparisonError, match="refuses chat/completions with status 404"),
    ):
        loaded(checkpoint, server, chats=True)


def test_a_server_that_has_neither_is_told_of_completions(checkpoint: Path) -> None:
    with (
        openai_server(MODEL, Behaviour("vllm", always=status(404))) as server,
        pytest.raises(InvalidComparisonError, match="refuses completions with status 404"),
    ):
        loaded(checkpoint, server)
