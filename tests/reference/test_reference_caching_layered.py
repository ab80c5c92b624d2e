"""The layered service: who answers, what is written where, and how streams are kept."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any

import async_solipsism
import pytest
from caching_cases import BrokenStore, Clock, request
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.caching import (
    Answer,
    ChatRequest,
    LayeredLLMService,
    MemoryStore,
    ResponseCache,
    SemanticCache,
    StreamChunk,
)
from infopt_reference.caching.service import replay
from test_reference_caching_semantic_cache import Compass


class Echo:
    """A model that says how often it was asked, and streams in pieces of three letters."""

    def __init__(self, breaks: bool = False, delay: float = 0.0) -> None:
        self.calls = self.closed = 0
        self.breaks = breaks
        self.delay = delay

    async def complete(self, request: ChatRequest) -> Answer:
        self.calls += 1
        answer = self._answer(request)
        await asyncio.sleep(self.delay)
        return answer

    async def stream(self, request: ChatRequest) -> AsyncGenerator[StreamChunk, None]:
        self.calls += 1
        answer = self._answer(request)
        text = answer.content or ""
        try:
            for start in range(0, len(text), 3):
                await asyncio.sleep(self.delay)
                yield StreamChunk(text[start : start + 3])
                if self.breaks and start:
                    raise ConnectionError("the stream breaks off")
            yield StreamChunk(answer=answer)
        finally:
            self.closed += 1

    def _answer(self, request: ChatRequest) -> Answer:
        text = f"call {self.calls} of {request.messages[-1]['content']}"
        return Answer(text, prompt_tokens=2, completion_tokens=3)


def run(scenario: Awaitable[Any]) -> Any:
    """On virtual time: a wait that nothing ends is an error."""
    with asyncio.Runner(loop_factory=async_solipsism.EventLoop) as runner:
        return runner.run(scenario)  # type: ignore[arg-type]  # any coroutine


def layered(store: MemoryStore, model: Echo, **options: Any) -> LayeredLLMService:
    exact = ResponseCache(store, "l", **options)
    return LayeredLLMService(model, exact, SemanticCache(store, Compass(), 0.9, "l", **options))


async def told(service: LayeredLLMService, prompt: str, **fields: Any) -> str:
    return str((await service.complete(request(prompt, **fields))).content)


async def streamed(service: LayeredLLMService, prompt: str, **fields: Any) -> list[StreamChunk]:
    return [chunk async for chunk in service.stream(request(prompt, stream=True, **fields))]


def test_the_first_layer_that_has_an_answer_gives_it() -> None:
    async def scenario() -> None:
        model = Echo()
        service = layered(MemoryStore(), model)
        assert await told(service, "north") == "call 1 of north"
        assert await told(service, "north") == "call 1 of north"
        assert await told(service, "near north") == "call 1 of north"
        assert await told(service, "east") == "call 2 of east"
        assert await service.counters() == {
            "exact": 1,
            "semantic": 1,
            "model": 2,
            "saved_prompt_tokens": 4,
            "saved_completion_tokens": 6,
        }

    run(scenario())


def test_a_similar_answer_does_not_become_the_exact_one() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        service = layered(store, Echo())
        await told(service, "north")
        await told(service, "near north")
        assert await ResponseCache(store, "l").get(request("near north")) is None
        assert len(await store.read_log(SemanticCache(store, Compass(), 0.9, "l")._log)) == 1

    run(scenario())


def test_no_layer_keeps_an_answer_beyond_its_time() -> None:
    clock = Clock()

    async def scenario() -> None:
        store = MemoryStore(clock)
        service = layered(store, Echo(), ttl=10)
        assert await told(service, "north") == "call 1 of north"
        for prompt in ("north", "also north", "near north"):
            clock.now += 3
            assert await told(service, prompt) == "call 1 of north"
        # As after an eviction there: the second layer still answers, and not any longer for that.
        await store.delete(ResponseCache(store, "l").key(request("north")))
        assert await told(service, "north") == "call 1 of north"
        clock.now += 1
        assert await told(service, "also north") == "call 2 of also north"
        assert await told(service, "north") == "call 2 of also north"

    run(scenario())


def test_bypass_neither_reads_nor_writes() -> None:
    async def scenario() -> None:
        store, model = MemoryStore(), Echo()
        service = layered(store, model)
        assert (await service.complete(request("east"), bypass=True)).content == "call 1 of east"
        chunks = [chunk async for chunk in service.stream(request("east"), bypass=True)]
        assert chunks[-1].answer is not None
        assert not store._values
        assert await told(service, "north") == "call 3 of north"
        assert (await service.complete(request("north"), bypass=True)).content == "call 4 of north"
        assert await told(service, "north") == "call 3 of north"
        assert (await service.counters())["bypassed"] == 3

    run(scenario())


@pytest.mark.parametrize("layers", [(), ("exact",), ("semantic",), ("exact", "semantic")])
def test_equal_requests_at_the_same_time_ask_the_model_once(layers: tuple[str, ...]) -> None:
    async def scenario() -> None:
        store, model = MemoryStore(), Echo(delay=1)
        caches = {"exact": ResponseCache(store), "semantic": SemanticCache(store, Compass())}
        service = LayeredLLMService(model, **{name: caches[name] for name in layers})  # type: ignore[arg-type]
        answers = await asyncio.gather(*[told(service, "north") for _ in range(50)])
        assert model.calls == len({*answers}) == (1 if layers else 50)
        if layers:
            assert (await service.counters())["joined"] == 49

    run(scenario())


def test_sampled_requests_each_get_an_answer_of_their_own() -> None:
    async def scenario() -> None:
        model = Echo(delay=1)
        service = layered(MemoryStore(), model)
        answers = await asyncio.gather(*[told(service, "north", temperature=1) for _ in range(9)])
        assert len({*answers}) == model.calls == 9

    run(scenario())


def test_a_stream_is_stored_and_replayed_with_the_same_text_in_pieces() -> None:
    async def scenario() -> None:
        model = Echo()
        service = layered(MemoryStore(), model)
        first = await streamed(service, "north")
        for prompt in ("north", "also north"):
            again = await streamed(service, prompt)
            assert "".join(chunk.text for chunk in again) == "call 1 of north"
            assert len(again) > 2
            assert again[-1] == first[-1]
        assert await told(service, "north") == "call 1 of north"  # one entry serves both
        assert await told(service, "east") == "call 2 of east"
        assert "".join(chunk.text for chunk in await streamed(service, "east")) == "call 2 of east"
        assert model.calls == 2

    run(scenario())


@pytest.mark.parametrize("pieces", [0, 1, 4])
def test_a_stream_that_its_reader_leaves_is_not_stored_and_is_closed(pieces: int) -> None:
    async def scenario() -> None:
        store, model = MemoryStore(), Echo()
        service = layered(store, model)
        stream = service.stream(request("north"))
        for _ in range(pieces):
            await anext(stream)
        await stream.aclose()
        assert not store._values
        assert model.closed == model.calls == (1 if pieces else 0)

    run(scenario())


def test_a_stream_whose_reader_is_cancelled_is_not_stored() -> None:
    async def scenario() -> None:
        store, model = MemoryStore(), Echo(delay=1)
        service = layered(store, model)
        reader = asyncio.create_task(streamed(service, "north"))
        await asyncio.sleep(2.5)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert not store._values
        assert model.closed == 1

    run(scenario())


def test_a_stream_that_breaks_off_is_not_stored() -> None:
    async def scenario() -> None:
        store = MemoryStore()
        service = layered(store, Echo(breaks=True))
        with pytest.raises(ConnectionError, match="breaks off"):
            await streamed(service, "north")
        assert not store._values

    run(scenario())


def test_a_stream_is_stored_though_its_last_chunk_is_not_waited_for() -> None:
    async def scenario() -> None:
        service = layered(MemoryStore(), Echo())
        stream = service.stream(request("north"))
        async for chunk in stream:
            if chunk.answer is not None:
                break
        await stream.aclose()
        assert await told(service, "north") == "call 1 of north"

    run(scenario())


def test_caches_that_are_down_fail_no_request() -> None:
    async def scenario() -> None:
        store = BrokenStore("get", "get_many", "set", "append", "read_log", "increment", "numbers")
        model = Echo()
        service = layered(store, model)
        assert await told(service, "north") == "call 1 of north"
        chunks = await streamed(service, "north")
        assert "".join(chunk.text for chunk in chunks) == "call 2 of north"
        assert (await service.counters())["model"] == 2
        await service.clear()
        await service.close()

    run(scenario())


def test_what_the_model_raises_the_caller_gets() -> None:
    async def scenario() -> None:
        class Failing(Echo):
            async def complete(self, request: ChatRequest) -> Answer:
                await super().complete(request)
                raise ConnectionError("no model")

        service = layered(MemoryStore(), Failing(delay=1))
        results = await asyncio.gather(
            *[told(service, "north") for _ in range(5)], return_exceptions=True
        )
        assert [type(result) for result in results] == [ConnectionError] * 5

    run(scenario())


@given(st.text())
def test_replayed_pieces_are_the_text(text: str) -> None:
    answer = Answer(text, [{"x": 1}])
    *pieces, last = replay(answer)
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text and piece.answer is None for piece in pieces)
    assert (last.text, last.answer) == ("", answer)
    assert len(pieces) >= len(text.split())
