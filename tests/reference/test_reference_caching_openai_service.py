"""A service over HTTP, against a server of the API that is written here."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from caching_cases import request
from infopt_reference.caching import Answer, OpenAIService, ServiceError, StreamChunk

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Server:
    """Answers every request with ``replies``: one body, or the events of a stream."""

    def __init__(self, *replies: Any, status: str = "200 OK", cut: bool = False) -> None:
        self.replies = replies
        self.status = status
        self.cut = cut
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(line.split(":")[1])
            for line in head.lower().split("\r\n")
            if line.startswith("content-length")
        )
        body = json.loads(await reader.readexactly(length))
        self.heads.append(head)
        self.bodies.append(body)
        kind = "text/event-stream" if body["stream"] else "application/json"
        writer.write(
            f"HTTP/1.1 {self.status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()
        )
        for reply in self.replies:
            text = json.dumps(reply)
            writer.write(f"data: {text}\n\n".encode() if body["stream"] else text.encode())
            await writer.drain()
        if body["stream"] and not self.cut:
            writer.write(b"data: [DONE]\n\n")
        if self.cut:
            await reader.read()  # until the client goes
        self.gone.set()
        writer.close()


def with_server(server: Server, scenario: Callable[[OpenAIService], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        listening = await asyncio.start_server(server, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        try:
            return await scenario(OpenAIService(f"http://127.0.0.1:{port}/v1", "key", timeout=5))
        finally:
            listening.close()

    return asyncio.run(run())


def reply(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return {"id": "1", "choices": [choice], "usage": USAGE}


def event(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return {"id": "1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


async def read(service: OpenAIService, **fields: Any) -> list[StreamChunk]:
    return [chunk async for chunk in service.stream(request(**fields))]


def test_every_field_reaches_the_server_and_the_tenant_does_not() -> None:
    server = Server(reply({"role": "assistant", "content": "ä"}))
    asked = request("Why?", tenant="t", seed=1, stop=["x"], logit_bias={"1": -1}, odd={"a": [1]})
    with_server(server, lambda service: service.complete(asked))
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "Why?"}],
            "temperature": 0,
            "seed": 1,
            "stop": ["x"],
            "logit_bias": {"1": -1},
            "odd": {"a": [1]},
            "stream": False,
        }
    ]
    assert "POST /v1/chat/completions" in server.heads[0]
    assert "bearer key" in server.heads[0].lower()


def test_an_adapter_is_the_model_to_the_server() -> None:
    server = Server(reply({"role": "assistant", "content": "x"}))
    with_server(server, lambda service: service.complete(request(adapter="lora")))
    assert server.bodies[0]["model"] == "lora"


def test_answers_are_plain_data() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "h"}
    server = Server(reply(message, "tool_calls"))
    answer = with_server(server, lambda service: service.complete(request()))
    expected = Answer(None, [CALL], "tool_calls", 3, 2, {"reasoning_content": "h"})
    assert answer == expected
    assert type(answer.tool_calls[0]["function"]) is dict


def test_a_stream_ends_with_the_whole_answer() -> None:
    events = [event({"role": "assistant", "content": ""}), event({"content": "On"})]
    events += [event({"reasoning_content": part}) for part in ("h", "m")]
    events += [event({"content": "e ä"}), event({}, "stop"), {"choices": [], "usage": USAGE}]
    server = Server(*events)
    assert with_server(server, read) == [
        StreamChunk("On"),
        StreamChunk("e ä"),
        StreamChunk(answer=Answer("One ä", None, "stop", 3, 2, {"reasoning_content": "hm"})),
    ]
    assert server.bodies[0]["stream_options"] == {"include_usage": True}


def test_calls_of_tools_come_in_pieces() -> None:
    def piece(index: int, **call: Any) -> dict[str, Any]:
        return event({"tool_calls": [{"index": index, **call}]})

    second = {**CALL, "id": "c2", "function": {"name": "g", "arguments": "{}"}}
    server = Server(
        piece(0, id="c1", type="function", function={"name": "f", "arguments": ""}),
        piece(0, function={"arguments": '{"x"'}),
        piece(1, id="c2", type="function", function={"name": "g", "arguments": "{}"}),
        piece(0, function={"arguments": ": 1}"}),
        event({}, "tool_calls"),
    )
    (last,) = with_server(server, read)
    assert last.answer == Answer(None, [CALL, second], "tool_calls")


@pytest.mark.parametrize("cut_by", ["the server's end", "no finish reason"])
def test_a_stream_without_an_end_is_an_error(cut_by: str) -> None:
    server = Server(event({"content": "On"}))

    async def scenario(service: OpenAIService) -> None:
        with pytest.raises(ServiceError, match="after 1 pieces"):
            await read(service)

    with_server(server, scenario)


def test_a_stream_that_is_left_closes_its_connection() -> None:
    async def scenario(service: OpenAIService) -> None:
        stream = service.stream(request())
        assert (await anext(stream)).text == "On"
        await stream.aclose()
        await asyncio.wait_for(server.gone.wait(), 30)

    server = Server(event({"content": "On"}), cut=True)
    with_server(server, scenario)


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("status", ["500 Internal Server Error", "429 Too Many Requests"])
def test_what_the_server_refuses_is_an_error_with_its_address(status: str, streams: bool) -> None:
    async def scenario(service: OpenAIService) -> None:
        with pytest.raises(ServiceError, match=service.base_url):
            await (read(service) if streams else service.complete(request()))

    with_server(Server({"error": "no"}, status=status), scenario)


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:1"):
        asyncio.run(OpenAIService("http://127.0.0.1:1/v1").complete(request()))


@pytest.mark.parametrize("body", [{"choices": []}, {"id": "1"}, "junk"], ids=repr)
def test_a_reply_without_an_answer_is_an_error(body: Any) -> None:
    async def scenario(service: OpenAIService) -> None:
        with pytest.raises(ServiceError):
            await service.complete(request())

    with_server(Server(body), scenario)


def test_several_choices_are_refused_before_the_server_is_asked() -> None:
    with pytest.raises(ValueError, match="n is 2"):
        asyncio.run(OpenAIService("http://127.0.0.1:1/v1").complete(request(n=2)))
