"""Many streams at once: whatever the network cuts bytes into, each event has its moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.measurement import LoadResult, LoadSummary, closed_load
from openai_server_fake import Behaviour, cut, openai_server, status, trickling
from test_engines_openai import IDS, MODEL, checkpoint, served  # noqa: F401

from pytest_infopt.engines.openai import streams
from pytest_infopt.engines.openai.client import ServerClient
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.release import ServerSource

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def event(number: int) -> bytes:
    return b"data: " + json.dumps({"n": number, "text": "é\n" * number}).encode() + b"\n\n"


def chunked(events: Sequence[bytes]) -> list[bytes]:
    """One chunk an event, behind the head, and the last one."""
    chunks = [b"%x\r\n%s\r\n" % (len(each), each) for each in events]
    return [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]


def announced(events: Sequence[bytes]) -> list[bytes]:
    """As many bytes as the head says."""
    length = sum(map(len, events))
    return [HEAD + b"content-length: %d\r\n\r\n" % length, *events]


class Transport:
    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        pass


def arrived(pieces: Sequence[bytes], cuts: Sequence[int], closes: bool) -> list[tuple[str, float]]:
    """The events of bytes that come in parts, part i at moment i."""
    raw = b"".join(pieces)
    places = [0, *sorted({place % len(raw) for place in cuts} - {0}), len(raw)]
    moments = iter(range(len(places)))

    async def run() -> list[Any]:
        connection = streams._Connection()
        connection.connection_made(Transport())  # type: ignore[arg-type]
        asked = asyncio.ensure_future(connection.ask(b""))
        await asyncio.sleep(0)
        for begin, end in pairwise(places):
            assert not asked.done()
            connection.data_received(raw[begin:end])
            await asyncio.sleep(0)
        if closes:
            connection.connection_lost(None)
            await asyncio.sleep(0)
        assert asked.done()
        return asked.result()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
        response, bodies = streams._read(asyncio.run(run()))
    assert response.status_code == 200
    return list(streams._events(bodies))


@given(
    st.integers(1, 5),
    st.lists(st.integers(0, 2000), max_size=12),
    st.sampled_from([chunked, announced, "closed"]),
)
def test_an_event_has_the_moment_of_its_last_byte(
    count: int, cuts: list[int], framing: Any
) -> None:
    events = [event(number) for number in range(count)]
    pieces = [HEAD + b"\r\n", *events] if framing == "closed" else framing(events)
    found = arrived(pieces, cuts, closes=framing == "closed")
    assert [json.loads(data)["n"] for data, _ in found] == list(range(count))
    raw = b"".join(pieces)
    places = [*sorted({place % len(raw) for place in cuts} - {0}), len(raw)]
    for (_, moment), each in zip(found, events, strict=True):
        last = raw.index(each) + len(each) - 1
        assert moment == next(i for i, place in enumerate(places) if last < place)


def test_chunks_need_not_be_events() -> None:
    whole = b"".join(event(number) for number in range(3))
    halves = [whole[:20], whole[20:50], whole[50:]]
    found = arrived(chunked(halves), [], closes=False)
    assert [json.loads(data)["n"] for data, _ in found] == [0, 1, 2]


def loaded(engine: Any, requests: int, clients: int) -> list[LoadResult]:
    async def run() -> list[LoadResult]:
        await engine.open_streams(clients)

        async def send(index: int) -> list[tuple[int, float]]:
            events = await engine.load_stream(IDS[index % 3 :], 4)
            return [(each.token_id, each.arrived) for each in events]

        try:
            return await closed_load(send, requests, clients=clients)
        finally:
            engine.close_streams()

    return asyncio.run(run())


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "openai", "text", "in process"])
def test_many_streams_give_each_request_its_tokens(checkpoint: Any, dialect: str) -> None:  # noqa: F811
    expected = [MODEL.greedy_tokens(IDS[index % 3 :], 4) for index in range(12)]
    if dialect == "in process":
        results = loaded(MODEL, 12, 4)
    else:
        with served(checkpoint, dialect) as (engine, _):
            results = loaded(engine, 12, 4)
    assert [result.error for result in results] == [""] * 12
    assert [result.timing.token_ids for result in results if result.timing] == expected


def test_tokens_that_an_answer_ends_within_a_character_of_count(
    checkpoint: Any,  # noqa: F811
) -> None:
    """llama.cpp tells none of them; all were made."""

    def half(handler: Any, body: dict[str, Any]) -> bool:
        handler.begin_stream()
        for count, token in enumerate((7, 8), 1):
            handler.event({"content": "w", "tokens": [token], "tokens_predicted": count})
        handler.event({"stop": True, "stop_type": "limit", "tokens_predicted": 4})
        handler.chunk(b"")
        return True

    with served(checkpoint, "llama.cpp") as (engine, server):
        server.behaviour.always = half
        (result,) = loaded(engine, 1, 1)
    assert result.error == ""
    assert result.timing is not None
    assert [*result.timing.token_ids] == [7, 8, -1, -1]


def test_a_connection_that_the_server_left_behind_an_answer_is_replaced(
    checkpoint: Any,  # noqa: F811
) -> None:
    """As llama.cpp's server does, which says that it keeps them. One that is left in the middle of
    an answer, or before any, is a request that failed."""
    begun = set()

    def left(handler: Any, body: dict[str, Any]) -> bool:
        """Close at a connection's second request, without a word."""
        handler.close_connection = handler in begun
        begun.add(handler)
        return bool(handler.close_connection)

    with served(checkpoint, "vllm") as (engine, server):
        server.behaviour.always = left
        assert [result.error for result in loaded(engine, 6, 2)] == [""] * 6
        assert len(begun) > 2
        server.behaviour.always = lambda handler, body: (
            setattr(handler, "close_connection", True) or True
        )
        (result,) = loaded(engine, 1, 1)
    assert "closed its stream" in result.error


def test_a_request_that_fails_is_told_and_harms_no_other(checkpoint: Any) -> None:  # noqa: F811
    with served(checkpoint, "vllm") as (engine, server):
        server.behaviour.faults = [status(500), cut, status(404)]
        results = loaded(engine, 8, 1)
        asked = len(server.bodies)
    told = [result.error for result in results]
    assert ["500" in told[0], "cut" in told[1], "404" in told[2]] == [True] * 3
    assert told[3:] == [""] * 5
    assert LoadSummary.of(results).failed == 3
    assert asked >= 8  # none is asked again


def test_a_stream_that_does_not_end_is_given_up() -> None:
    async def ask(url: str) -> None:
        with ServerClient(ServerSource(url, timeout_seconds=0.1)) as client:
            await streams.StreamConnections(client).events("completions", {"prompt": IDS})

    with (
        openai_server(MODEL, Behaviour("vllm", always=trickling)) as server,
        pytest.raises(InvalidComparisonError, match=r"did not end its answer within 0.1 s"),
    ):
        asyncio.run(ask(server.url))


def test_nobody_listens() -> None:
    async def ask() -> None:
        with ServerClient(ServerSource("http://127.0.0.1:9/v1")) as client:
            await streams.StreamConnections(client).events("completions", {})

    with pytest.raises(InvalidComparisonError, match="ConnectionRefused"):
        asyncio.run(ask())
