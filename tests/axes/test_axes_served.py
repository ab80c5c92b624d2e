"""Servers by their address alone: what they tell, and what proves that an axis was exercised."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from axis_sides import PROMPTS, tiny_engine
from openai_server_fake import Behaviour, FakeServer, openai_server

from pytest_infopt import ServerSource, assert_equivalent
from pytest_infopt.axes.answers import answer_of
from pytest_infopt.axes.served_side import served_side
from pytest_infopt.errors import AxisNotExercisedError, NotEquivalentError

TEXTS = [" ".join(f"w{token}" for token in prompt) for prompt in PROMPTS]


@dataclass
class Telling:
    """A server that tells log-probabilities in a ``form``, and what it had cached. Requests
    meet at the ``barrier`` behind their first token. ``wrong_hit`` begins warm answers with another
    token."""

    form: str = ""
    caches: bool = False
    wrong_hit: bool = False
    seen: set[str] = field(default_factory=set)
    barrier: threading.Barrier | None = None

    def __call__(self, handler: Any, body: dict[str, Any]) -> bool:
        server: FakeServer = handler.server
        ids = server.engine.encode(body["prompt"])
        tokens = server.greedy(ids, body["max_tokens"])
        hit = body["prompt"] in self.seen
        self.seen.add(body["prompt"])
        if hit and self.wrong_hit:
            tokens = [(tokens[0] + 1) % 128, *tokens[1:]]
        rows = server.log_probabilities([*ids, *tokens])[len(ids) - 1 :]
        handler.begin_stream()
        for place, token in enumerate(tokens):
            best = {f"w{i} ": float(rows[place, i]) for i in rows[place].topk(5).indices.tolist()}
            handler.event({"choices": [{"text": f"w{token} ", **self.told(f"w{token} ", best)}]})
            if place == 0 and self.barrier is not None:
                self.barrier.wait(timeout=60)
        usage: dict[str, Any] = {"completion_tokens": len(tokens)}
        if self.caches:
            usage["prompt_tokens_details"] = {"cached_tokens": 8 * hit}
        handler.event({"choices": [{"text": "", "finish_reason": "length"}], "usage": usage})
        handler.chunk(b"data: [DONE]\n\n")
        handler.chunk(b"")
        return True

    def told(self, token: str, best: dict[str, float]) -> dict[str, Any]:
        if self.form == "old":
            return {"logprobs": {"tokens": [token], "top_logprobs": [best]}}
        if self.form == "new":
            rows = [{"token": text, "logprob": value} for text, value in best.items()]
            return {"logprobs": {"content": [{"token": token, "top_logprobs": rows}]}}
        return {}


@contextmanager
def serving(telling: Telling) -> Iterator[FakeServer]:
    with openai_server(tiny_engine(), Behaviour("text", always=telling)) as server:
        yield server


@pytest.mark.parametrize("form", ["old", "new", ""])
def test_tokens_are_the_servers_own_where_it_tells_them(form: str) -> None:
    with serving(Telling(form)) as server:
        with closing(served_side(server.url, 3)) as side:
            answer = answer_of(side.answer(TEXTS[0]))
        expected = server.greedy(list(PROMPTS[0]), 3)
        rows = server.log_probabilities([*PROMPTS[0], *expected])[len(PROMPTS[0]) - 1 :]
    words = [f"w{token}" for token in expected]
    assert [str(token).strip() for token in answer.tokens if str(token).strip()] == words
    assert [max(row.values()) for row in answer.top] == (
        [pytest.approx(float(row.max())) for row in rows[:3]] if form else []
    )
    assert answer.span is not None
    assert answer.span[0] < answer.span[1]


def test_a_warm_server_is_held_to_its_cold_answers() -> None:
    with serving(Telling("old", caches=True)) as server:
        found = assert_equivalent(server.url, axis="cold/warm", prompts=TEXTS)
        assert found.proof == f"{8 * len(TEXTS)} tokens came from the cache"
    with (
        serving(Telling("old", caches=True, wrong_hit=True)) as server,
        pytest.raises(NotEquivalentError, match="at token 0") as error,
    ):
        assert_equivalent(server.url, axis="cold/warm", prompts=TEXTS, new_tokens=1)
    assert str(error.value).count("'w") >= 6  # the top tokens of both


def test_a_prompt_that_was_asked_before_is_not_cold() -> None:
    with serving(Telling(caches=True)) as server:
        named = ServerSource(server.url, model="tiny")
        assert_equivalent(named, axis="cold/warm", prompts=TEXTS)
        assert {body["model"] for body in server.bodies} == {"tiny"}
        with pytest.raises(AxisNotExercisedError, match="of cold prompts"):
            assert_equivalent(server.url, axis="cold/warm", prompts=TEXTS)
        # The corpus begins with a number that is drawn: each time it is new.
        assert_equivalent(server.url, axis="cold/warm", new_tokens=2)


def test_requests_one_at_a_time_are_not_concurrent() -> None:
    with serving(Telling()) as server, closing(served_side(server.url, 3)) as side:
        lock = threading.Lock()

        def answer(prompt: Any) -> object:
            with lock:
                return side.answer(prompt)

        with pytest.raises(AxisNotExercisedError, match="no two requests were seen together"):
            assert_equivalent(answer, axis="concurrent/serial", prompts=TEXTS)


def test_concurrent_requests_of_a_server_are_compared() -> None:
    together = Telling(barrier=threading.Barrier(len(TEXTS)))
    with serving(Telling()) as alone, serving(together) as server:
        found = assert_equivalent(alone.url, server.url, axis="concurrent/serial", prompts=TEXTS)
    assert found.proof == f"up to {len(TEXTS)} requests were together"


def test_two_versions_of_a_server() -> None:
    def page(version: str) -> Any:
        def get(handler: Any) -> None:
            if handler.path == "/version":
                handler.respond(200, json.dumps({"version": version}).encode())
            else:
                handler.answer({"data": [{"id": "tiny"}]})

        return get

    with serving(Telling("old")) as one, serving(Telling("old")) as other:
        for server, version in ((one, "1.0"), (other, "1.1")):
            handler = type("Versioned", (server.RequestHandlerClass,), {"do_GET": page(version)})
            server.RequestHandlerClass = handler
        found = assert_equivalent(one.url, other.url, axis="engine version", prompts=TEXTS)
        assert found.proof == "1.0 against 1.1"
        with pytest.raises(AxisNotExercisedError, match=r"side a runs with 1\.0, side b with 1\.0"):
            assert_equivalent(one.url, axis="engine version", prompts=TEXTS)
