"""A model behind two caches: asked for what is new, and for nothing else."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from ..base import requires
from ..properties import noted, tried
from .computing_properties import outcome_of
from .protocol import Answer, Chunk, Request
from .requests import BASE, ask, changed, in_context, reply
from .trial import Caches, CacheSuite, Trial, same
from .vectors import KnownVectors, at

_PATIENCE = 200  # hundredths of a second for what comes at once where all is well
_WHOLE = re.compile("call [0-9]+ about (the asked|a near) one and what it means")
_NEAR = {"the asked one": at(1.0), "a near one": at(0.95), "a far one": at(0.6, 2)}


class ScriptedModel:
    """Each call has an answer of its own, unless it was given one, or an error.

    ``breaks_after``: the pieces of a stream after which it breaks off, with the error.
    ``held``: calls of `complete` wait for it.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.breaks_after: int | None = None
        self.seconds = 0.0
        self.held: asyncio.Event | None = None

    async def complete(self, request: Request, /) -> Answer:
        self.calls += 1
        answer = self._answer(request)
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error
        return answer

    async def called(self, times: int) -> bool:
        """Whether it is called that often, soon."""
        for _ in range(_PATIENCE):
            if self.calls >= times:
                return True
            await asyncio.sleep(0.01)
        return False

    async def stream(self, request: Request, /) -> AsyncIterator[Chunk]:
        self.calls += 1
        answer = self._answer(request)
        for number, word in enumerate(answer["content"].split(" ")):
            if number == self.breaks_after:
                raise self.error or asyncio.CancelledError
            await asyncio.sleep(self.seconds)
            yield {"content": word if number == 0 else f" {word}"}
        yield {"content": "", "finish_reason": answer["finish_reason"], "usage": answer["usage"]}

    def _answer(self, request: Request) -> Answer:
        question = request["messages"][-1]["content"]
        return self.answer or reply(f"call {self.calls} about {question} and what it means")


def _fail(text: str) -> Any:
    raise ConnectionError("the embedder is down")


on_services = tried("services", by="_check_services")  # a property of one `Trial`


class LayerProperties(CacheSuite):
    """``bypass_keeps``: whether the model's answer to a request with ``bypass`` takes the place of
    what is kept in all layers, or (by default) leaves the layers as they are.
    """

    topic = ""
    bypass_keeps: ClassVar[bool] = False

    @on_services()
    async def test_the_model_is_asked_once(self, trial: Trial) -> None:
        """For the same request again, whatever lies between, and for a similar one.

        Usual causes: a layer that is not written, or not read; one layer's miss taken for all.
        """
        service, model = await trial.open(), _model(trial)
        first = await service.complete(ask("the asked one"))
        same(first, reply("call 1 about the asked one and what it means"))
        for question in ("the asked one", "a near one", "the asked one", "a near one"):
            same(await service.complete(ask(question)), first, question)
        assert model.calls == 1, f"{model.calls} calls for one question in similar words"
        far = await service.complete(ask("a far one"))
        assert far["content"].startswith("call 2"), "a question that is not similar was served"
        same(await service.complete(ask("a far one")), far)
        same(await service.complete(ask("a near one")), first)

    @on_services()
    async def test_other_contexts_ask_the_model(self, trial: Trial) -> None:
        """Another tenant, model or parameter, for the same and for a similar question.

        Usual causes: a scope that one of the layers does not know.
        """
        service, model = await trial.open(), _model(trial)
        await service.complete(ask("the asked one"))
        others: list[dict[str, Any]] = [{"tenant": "acme"}, {"model": "another"}, {"seed": 1}]
        others = [each for each in others if {*each} <= {*self.fields}]
        others.append({"before": [{"role": "system", "content": "Be long."}]})
        for number, fields in enumerate(others, 2):
            for question in ("a near one", "the asked one"):
                answer = await service.complete(in_context(fields, question))
                about = f"call {number} about"
                assert answer["content"].startswith(about), f"{fields}: {answer['content']}"
        assert model.calls == 1 + len(others)

    @on_services()
    async def test_with_bypass_the_model_answers(self, trial: Trial) -> None:
        """Each time, whatever is kept; and what is kept stays an answer to its question.

        Usual causes: one of the layers asked all the same.
        """
        service, model = await trial.open(), _model(trial)
        for number in (1, 2):
            answer = await service.complete(ask("the asked one"), bypass=True)
            assert answer["content"].startswith(f"call {number} about"), answer["content"]
        await service.complete(ask("the asked one"))
        calls = model.calls
        answer = await service.complete(ask("the asked one"), bypass=True)
        assert answer["content"].startswith(f"call {calls + 1} about"), answer["content"]
        answer = await service.complete(ask("a near one"), bypass=True)
        assert answer["content"].startswith(f"call {calls + 2} about"), answer["content"]
        answer = await service.complete(ask("the asked one"))
        assert "about the asked one" in answer["content"], answer["content"]

    @on_services()
    async def test_a_request_with_bypass_joins_no_other(self, trial: Trial) -> None:
        """An equal request is under way; the model is asked all the same.

        Usual causes: bypass for the look-up alone, and single flight behind it.
        """
        service, model = await trial.open(), _model(trial)
        model.held = asyncio.Event()
        asking = [asyncio.create_task(service.complete(ask("the asked one")))]
        assert await model.called(1), "the model was not asked"
        asking.append(asyncio.create_task(service.complete(ask("the asked one"), bypass=True)))
        asked = await model.called(2)
        model.held.set()
        plain, bypassing = await asyncio.gather(*asking)
        assert asked, "a request with bypass waits for another's answer"
        assert plain["content"].startswith("call 1 about"), plain["content"]
        assert bypassing["content"].startswith("call 2 about"), bypassing["content"]

    @on_services(each={"before": (False, True)})
    async def test_what_is_answered_with_bypass_is_kept_as_declared(
        self, trial: Trial, before: bool
    ) -> None:
        """``bypass_keeps``: in all layers, in place of what is there; or nowhere.

        Usual causes: a write that does not ask how the answer came, one layer written.
        """
        service, model = await trial.open(), _model(trial)
        if before:
            await service.complete(ask("the asked one"))
        calls = model.calls
        await service.complete(ask("the asked one"), bypass=True)
        wanted = 1 if before and not self.bypass_keeps else calls + 1 + (not self.bypass_keeps)
        for question in ("the asked one", "a near one"):
            answer = await service.complete(ask(question))
            assert answer["content"].startswith(f"call {wanted} about"), (
                f"{question}: {answer['content']!r}, not that of call {wanted}; bypass_keeps is "
                f"{self.bypass_keeps}"
            )

    @requires("policy")
    @on_services(cache_sampled=False)
    async def test_no_layer_keeps_what_must_not_be_kept(self, trial: Trial) -> None:
        """Answers that are cut off, and sampled ones, for the same and for a similar question.

        Usual causes: a rule of one layer that the other does not have.
        """
        service, model = await trial.open(), _model(trial)
        model.answer = reply("Once upon a", finish_reason="length")
        await service.complete(ask("the asked one"))
        model.answer = None
        for question in ("a near one", "a far one"):
            answer = await service.complete(ask(question))
            assert f"about {question}" in answer["content"], answer["content"]
        sampled = {"temperature": 1.0, "max_tokens": 9}
        calls = model.calls
        for question in ("the asked one", "a near one", "the asked one"):
            calls += 1
            answer = await service.complete(ask(question, **sampled))
            assert answer["content"].startswith(f"call {calls} about"), answer["content"]

    @requires("ttl")
    @on_services(mortal=True)
    async def test_no_layer_answers_after_the_end(self, trial: Trial) -> None:
        """The answer ends with the call that it came from, in each layer: whoever served it since,
        and to which question.

        Usual causes: an answer of the second layer written to the first with a whole time to live.
        """
        service, model = await trial.open(), _model(trial)
        await service.complete(ask("the asked one"))
        await trial.advance(0.75 * self.ttl)
        for question in ("a near one", "the asked one"):
            await service.complete(ask(question))
        assert model.calls == 1
        await trial.advance(0.5 * self.ttl)
        for question in ("a near one", "the asked one"):
            answer = await service.complete(ask(question))
            assert not answer["content"].startswith("call 1 "), f"{question}, at 1.25"

    @requires("ttl", "ttl per layer")
    @on_services(each={"longer": ("exact", "semantic")})
    async def test_each_layer_has_its_own_time_to_live(self, trial: Trial, longer: str) -> None:
        """When one is over, the other still answers what it can; and nothing lives longer by it.

        Usual causes: one time for both; the longer one's answers written to the shorter anew.
        """
        times = {"exact_ttl": self.ttl, "semantic_ttl": self.ttl, f"{longer}_ttl": 2 * self.ttl}
        service = await trial.open(**times)
        await service.complete(ask("the asked one"))
        await trial.advance(1.25 * self.ttl)
        answer = await service.complete(ask("the asked one"))
        assert answer["content"].startswith("call 1 "), f"the {longer} layer's time is not over"
        answer = await service.complete(ask("a near one"))
        wanted = 2 if longer == "exact" else 1
        assert answer["content"].startswith(f"call {wanted} "), (
            f"a similar question, {longer} longer: {answer['content']!r}, not that of call {wanted}"
        )
        await trial.advance(0.85 * self.ttl)
        answer = await service.complete(ask("the asked one"))
        assert not answer["content"].startswith("call 1 "), "both times are over, at 1.05 of one"

    @on_services(embed=_fail)
    async def test_without_its_embedder_equal_requests_are_served(self, trial: Trial) -> None:
        """The first layer needs none.

        Usual causes: one error handler about both layers.
        """
        service, model = await trial.open(), _model(trial)
        first = await service.complete(BASE)
        same(await service.complete(BASE), first)
        assert model.calls == 1, f"{model.calls} calls for equal requests"

    @requires("shared")
    @on_services()
    async def test_other_instances_answer_from_both_layers(self, trial: Trial) -> None:
        """What one has asked for, others have.

        Usual causes: a layer that is written to memory alone.
        """
        first, second = await trial.open(), await trial.open()
        answer = await first.complete(ask("the asked one"))
        for service in (second, await trial.open()):
            same(await service.complete(ask("a near one")), answer)
            same(await service.complete(ask("the asked one")), answer)
        assert _model(trial).calls == 1

    @requires("counters")
    @on_services()
    async def test_each_layer_counts_what_it_answered(self, trial: Trial) -> None:
        """One after another, and many at once.

        Usual causes: look-ups counted in place of answers, a layer that counts what it passed on.
        """
        service = await trial.open()
        for question in ("the asked one", "the asked one", "a near one", "a far one"):
            await service.complete(ask(question))
        await _check_layers(service, exact=1, semantic=1, model=2)
        await asyncio.gather(*(service.complete(ask("the asked one")) for _ in range(30)))
        await _check_layers(service, exact=31, semantic=1, model=2)
        await asyncio.gather(*(service.complete(ask("a near one")) for _ in range(30)))
        counted = await service.counters()
        total = sum(counted[layer] for layer in ("exact", "semantic", "model"))
        assert total == 64, f"{counted} are {total} answers, of 64"
        assert counted["model"] == 2, f"{counted}"

    @requires("stream")
    @on_services(each={"ways": ("ss", "sc", "cs", "sss")})
    async def test_a_stream_is_replayed_whole(self, trial: Trial, ways: str) -> None:
        """Streamed or not the first time, streamed or not the next: the same text, and one call.

        Usual causes: an iterator kept that is empty the second time, chunks that cannot be read
        back, streams that go past the cache.
        """
        content = "call 1 about the asked one and what it means"
        service, model = await trial.open(), _model(trial)
        for number, way in enumerate(ways):
            if way == "c":
                found = (await service.complete(ask("the asked one")))["content"]
            else:
                found = await _streamed(service.stream(ask("the asked one")))
            assert found == content, f"{way} as number {number} of {ways}: {found!r}"
        near = await _streamed(service.stream(ask("a near one")))
        assert near == content, f"a similar question, streamed: {near!r}"
        assert model.calls == 1, f"{model.calls} calls for one question, asked {ways}"

    @requires("stream")
    def test_a_stream_that_breaks_off_is_not_kept(self, services: Caches) -> None:
        """Whether the caller went away, the model failed, or the answer was cut off at its limit.

        Usual causes: a ``finally`` that keeps what there is so far.
        """

        async def abandoned(trial: Trial) -> None:
            service = await trial.open()
            stream = service.stream(ask("the asked one"))
            async for _ in stream:
                break
            await stream.aclose()
            await _check_whole(service)

        async def broken(trial: Trial) -> None:
            service, model = await trial.open(), _model(trial)
            model.error, model.breaks_after = ConnectionError("broken"), 2
            try:
                await _streamed(service.stream(ask("the asked one")))
            except ConnectionError:
                pass
            else:
                raise AssertionError("the model's error did not reach the caller of the stream")
            model.error = model.breaks_after = None
            await _check_whole(service)

        async def cancelled(trial: Trial) -> None:
            service, model = await trial.open(), _model(trial)
            model.seconds = 0.02
            reading = asyncio.create_task(_streamed(service.stream(ask("the asked one"))))
            await asyncio.sleep(0.05)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            model.seconds = 0.0
            await _check_whole(service)

        async def cut_off(trial: Trial) -> None:
            service, model = await trial.open(), _model(trial)
            model.answer = reply("Once upon a", finish_reason="length")
            assert await _streamed(service.stream(ask("the asked one"))) == "Once upon a"
            model.answer = None
            await _check_whole(service)

        ends = {
            "the caller went away": abandoned,
            "the model failed": broken,
            "the caller was cancelled": cancelled,
            "the answer was cut off": cut_off,
        }
        for end, holds in ends.items():
            if holds is not cut_off or "policy" in self.capabilities:
                with noted(end):
                    self._check_services(services, holds)

    @requires("stream")
    @on_services()
    async def test_streams_at_once_are_whole(self, trial: Trial) -> None:
        """Each caller gets a text from its beginning to its end, at a pace of its own.

        Usual causes: one iterator for several callers.
        """
        service, model = await trial.open(), _model(trial)
        model.seconds = 0.001
        ways = [_streamed(service.stream(ask("the asked one"))) for _ in range(5)]
        for text in await asyncio.gather(*ways):
            whole = "about the asked one and what it means"
            assert text.startswith("call "), f"{text!r} has no beginning"
            assert text.endswith(whole), f"{text!r} has no end"
            assert text.count("call") == 1, f"{text!r} has been mixed with another"
        kept = (await service.complete(ask("the asked one")))["content"]
        assert kept.endswith("about the asked one and what it means"), kept

    @on_services()
    async def test_a_failing_model_is_asked_again(self, trial: Trial) -> None:
        """Its error is the caller's, for this request alone.

        Usual causes: an error kept as an answer; an old answer served in its place.
        """
        service, model = await trial.open(), _model(trial)
        model.error = ConnectionError("the model is down")
        for _ in range(2):
            raised = await outcome_of(service.complete(changed(BASE)))
            assert raised is model.error, f"{raised!r} where the model raised {model.error!r}"
        model.error = None
        answer = await service.complete(changed(BASE))
        assert answer["content"].startswith("call 3"), answer["content"]

    def _check_services(self, services: Caches, holds: Any, **options: Any) -> None:
        __tracebackhide__ = True
        chosen = {"threshold": 0.9, "embed": KnownVectors(_NEAR), **options}
        self._check(services, holds, model=ScriptedModel(), **chosen)


def _model(trial: Trial) -> ScriptedModel:
    model: Any = trial.spec
    scripted: ScriptedModel = model.model
    return scripted


async def _streamed(stream: AsyncIterator[Chunk]) -> str:
    pieces = [chunk.get("content") or "" async for chunk in stream]
    return "".join(pieces)


async def _check_whole(service: Any) -> None:
    """What is served now is an answer from its beginning to its end, whoever it was made for."""
    for question in ("a near one", "the asked one"):
        content = (await service.complete(ask(question)))["content"]
        assert _WHOLE.fullmatch(content), f"{question}, after a stream that broke off: {content!r}"


async def _check_layers(service: Any, **wanted: int) -> None:
    counted = await service.counters()
    found = {layer: counted[layer] for layer in wanted}
    assert found == wanted, f"{found} answers were counted, not {wanted}"
