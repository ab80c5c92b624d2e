"""A model in process: it says what is most probable, streamed or not, up to a stop string."""

import asyncio
import threading
from typing import Any

import pytest
import torch
from caching_cases import request
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.caching import ChatRequest, StreamChunk, TransformersService
from infopt_reference.caching.transformers_service import _Text
from tiny_models import make_model, make_tokenizer

PROMPT = "w5 w42 w79"


@pytest.fixture(scope="module")
def service() -> TransformersService:
    model = make_model("llama")
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return TransformersService(model, make_tokenizer())


def greedy_words(service: TransformersService, count: int) -> list[str]:
    """The most probable continuation, one forward pass after the other."""
    ids = service.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(count):
        with torch.inference_mode():
            ids = torch.cat([ids, service.model(ids).logits[:, -1:].argmax(dim=-1)], dim=1)
    return str(service.tokenizer.decode(ids[0, start:], skip_special_tokens=True)).split()


async def read(service: TransformersService, asked: ChatRequest) -> list[StreamChunk]:
    return [chunk async for chunk in service.stream(asked)]


def test_at_temperature_0_it_says_the_most_probable(service: TransformersService) -> None:
    answer = asyncio.run(service.complete(request(PROMPT, max_tokens=12)))
    assert str(answer.content).split() == greedy_words(service, 12)
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == (
        "length",
        3,
        12,
    )


def test_the_pieces_of_a_stream_are_the_answer(service: TransformersService) -> None:
    asked = request(PROMPT, max_tokens=12)
    *pieces, last = asyncio.run(read(service, asked))
    assert last.answer == asyncio.run(service.complete(asked))
    assert "".join(piece.text for piece in pieces) == last.answer.content  # type: ignore[union-attr]
    assert [piece.text.strip() for piece in pieces] == greedy_words(service, 12)


def test_a_seed_gives_the_same_draw_and_leaves_the_global_generator(
    service: TransformersService,
) -> None:
    state = torch.random.get_rng_state()
    asked = [request(PROMPT, temperature=1.5, max_tokens=12, seed=seed) for seed in (1, 1, 2)]
    texts = [asyncio.run(service.complete(one)).content for one in asked]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.random.get_rng_state(), state)
    free = request(PROMPT, temperature=None, max_tokens=12)  # left out: as with 1
    assert len({asyncio.run(service.complete(free)).content for _ in range(5)}) > 1


@pytest.mark.parametrize("as_list", [False, True])
def test_the_text_ends_before_a_stop_string(service: TransformersService, as_list: bool) -> None:
    words = greedy_words(service, 12)
    stop = f" {words[5]}"
    asked = request(PROMPT, max_tokens=12, stop=["never", stop] if as_list else stop)
    answer = asyncio.run(service.complete(asked))
    expected = " ".join(words).split(stop)[0]
    assert (answer.content, answer.finish_reason) == (expected, "stop")
    assert answer.completion_tokens <= 6
    *pieces, last = asyncio.run(read(service, asked))
    assert ("".join(piece.text for piece in pieces), last.answer) == (expected, answer)


def test_an_end_token_is_a_stop(service: TransformersService) -> None:
    words = greedy_words(service, 12)
    first = words.index(words[4])
    service.model.generation_config.eos_token_id = [999, int(words[4][1:])]
    try:
        answer = asyncio.run(service.complete(request(PROMPT, max_completion_tokens=12)))
    finally:
        service.model.generation_config.eos_token_id = None
    assert (answer.finish_reason, answer.completion_tokens) == ("stop", first + 1)


def test_a_stream_that_is_left_stops_the_model(service: TransformersService) -> None:
    async def scenario() -> None:
        before = threading.active_count()
        stream = service.stream(request(PROMPT, max_tokens=80))
        assert (await anext(stream)).text
        await stream.aclose()
        assert not service._running.locked()
        assert threading.active_count() <= before + 1  # the pool's thread waits for more

    asyncio.run(scenario())


def test_requests_at_the_same_time_do_not_mix(service: TransformersService) -> None:
    async def scenario() -> None:
        asked = [request(f"w{n} w{n + 1}", max_tokens=6) for n in range(5)]
        alone = [await service.complete(one) for one in asked]
        assert await asyncio.gather(*[service.complete(one) for one in asked]) == alone

    asyncio.run(scenario())


@pytest.mark.parametrize("fields", [{"tools": []}, {"top_pp": 1}, {"n": 2}, {"adapter": "x"}])
def test_what_it_cannot_do_is_refused(service: TransformersService, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        asyncio.run(service.complete(request(**fields)))
    with pytest.raises(ValueError, match=next(iter(fields))):
        asyncio.run(read(service, request(**fields)))


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "\N{REPLACEMENT CHARACTER}"]), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=2),
)
def test_what_was_sent_is_never_taken_back(pieces: list[str], stops: list[str]) -> None:
    sent: list[str] = []
    text = _Text(request(stop=stops), sent.append)
    whole, done = "", False
    for piece in pieces:
        whole += piece
        done = text.show(whole)
        if done:
            break
    text.finish()
    ends = [whole.find(stop) for stop in stops if stop in whole]
    assert done == bool(ends)
    assert "".join(sent) == text.shown == (whole[: min(ends)] if ends else whole)


@pytest.mark.slow
def test_the_embedded_model_answers_in_its_chat_format(llm_service: TransformersService) -> None:
    asked = request("What is the capital of France?", max_tokens=40)
    answer = asyncio.run(llm_service.complete(asked))
    assert "Paris" in str(answer.content)
    assert answer.finish_reason == "stop"
    *pieces, last = asyncio.run(read(llm_service, asked))
    assert ("".join(piece.text for piece in pieces), last.answer) == (answer.content, answer)
