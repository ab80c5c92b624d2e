"""Servers that misbehave: what passes is asked again, what stays is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from openai_server_fake import (
    Behaviour,
    FakeServer,
    Fault,
    broken_json,
    cut,
    openai_server,
    renamed,
    status,
    trickling,
)
from tiny_models import make_model, make_tokenizer

from pytest_infopt.engines.openai.client import ServerClient
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import (
    InvalidComparisonError,
    ServerRefusedError,
    ServerUnavailableError,
)
from pytest_infopt.release import ServerSource

ENGINE = TransformersEngine("tiny", make_model("llama"), make_tokenizer(), dtype=torch.float32)
BODY = {"model": "tiny", "prompt": "w1 w2 w3", "max_tokens": 4}
Serve = Callable[..., tuple[FakeServer, ServerClient]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:

        def start(
            *faults: Fault, seconds: float = 20, **behaviour: Any
        ) -> tuple[FakeServer, ServerClient]:
            served = Behaviour("openai", list(faults), **behaviour)
            server = stack.enter_context(openai_server(ENGINE, served))
            source = ServerSource(server.url, "tiny", timeout_seconds=seconds)
            return server, stack.enter_context(ServerClient(source))

        yield start


def text_of(found: dict[str, Any]) -> str:
    return str(found["choices"][0]["text"])


EXPECTED = ENGINE.decode(ENGINE.generate([[1, 2, 3]], [4])[0])


@pytest.mark.parametrize(
    "fault",
    [status(429, Retry_After="0"), status(500, Retry_After="0"), status(503, Retry_After="0")],
    ids=["429", "500", "503"],
)
def test_what_passes_is_asked_again(serve: Serve, fault: Fault) -> None:
    server, client = serve(fault, fault)
    assert text_of(client.ask("completions", BODY)) == EXPECTED
    assert len(server.bodies) == 3


def test_the_wait_that_the_server_names_is_kept(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    # Not time.sleep: threads of other libraries call that meanwhile.
    monkeypatch.setattr("pytest_infopt.engines.openai.client.sleep", waits.append)
    _, client = serve(status(429, Retry_After="7"), status(500), status(500))
    client.ask("completions", BODY)
    assert waits == [7.0, 0.5, 1.0]
    _, client = serve(status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"))
    client.ask("completions", BODY)
    assert waits[3:] == [0.0]


def test_what_stays_unavailable_is_named(serve: Serve) -> None:
    server, client = serve(always=status(429, Retry_After="0"))
    with pytest.raises(ServerUnavailableError, match=r"refuses completions with status 429: .*no"):
        client.ask("completions", BODY)
    assert len(server.bodies) == 7
    _, client = serve(always=status(429, Retry_After="3600"), seconds=1)
    with pytest.raises(ServerUnavailableError, match="429"):  # nobody waits for an hour
        client.ask("completions", BODY)


def test_what_no_repetition_changes_is_not_repeated(serve: Serve) -> None:
    server, client = serve(always=status(401))
    with pytest.raises(ServerRefusedError, match="status 401"):
        client.ask("completions", BODY)
    assert len(server.bodies) == 1


def test_a_cut_stream_is_asked_again_and_never_taken_for_an_answer(serve: Serve) -> None:
    _, client = serve(cut)
    with pytest.raises(ServerUnavailableError, match=r"cut|peer closed"):
        list(client.events("completions", BODY))
    server, client = serve(cut, cut)
    events = client.retried(lambda: list(client.events("completions", BODY)))
    assert "".join(text_of(event) for event in events) == EXPECTED
    assert len(server.bodies) == 3


def test_a_stream_without_an_end_is_slow(serve: Serve) -> None:
    _, client = serve(trickling, seconds=0.2)
    with pytest.raises(InvalidComparisonError, match=r"did not end its answer within 0\.2 s"):
        list(client.events("completions", BODY))


def test_what_is_no_json_is_no_answer(serve: Serve) -> None:
    _, client = serve(broken_json)
    with pytest.raises(InvalidComparisonError, match="what is no JSON"):
        client.ask("completions", BODY)


def test_another_model_behind_the_name_is_noticed(serve: Serve) -> None:
    _, client = serve(lambda handler, body: False, renamed("other"))
    client.ask("completions", BODY)
    with pytest.raises(
        InvalidComparisonError, match="as model 'other' where it answered as 'tiny'"
    ):
        client.ask("completions", BODY)


def test_a_character_may_be_split_over_chunks(serve: Serve) -> None:
    text = "naïve 東京 🙂"

    def split(handler: Any, body: dict[str, Any]) -> bool:
        handler.begin_stream()
        data = f'data: {{"choices": [{{"text": "{text}", "finish_reason": "stop"}}]}}\n\n'.encode()
        for byte in data:
            handler.chunk(bytes([byte]))
        handler.chunk(b"")
        return True

    _, client = serve(split)
    (event,) = client.events("completions", BODY)
    assert text_of(event) == text


def test_nobody_listens(serve: Serve) -> None:
    server, client = serve()
    server.server_close()
    with pytest.raises(InvalidComparisonError, match=r"server http://127\.0\.0\.1"):
        client.ask("completions", BODY)


def test_fields_of_the_release_come_with_every_request(serve: Serve) -> None:
    server, _ = serve()
    source = ServerSource(server.url, "tiny", body={"ignore_eos": True, "max_tokens": 99})
    with ServerClient(source) as client:
        client.ask("completions", BODY)
    assert (server.bodies[-1]["ignore_eos"], server.bodies[-1]["max_tokens"]) == (True, 4)
