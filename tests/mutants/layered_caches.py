"""A small layered cache on Redis that is right, another in memory, and the same with faults."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from infopt_suites.caching import Answer, LayeredSpec, Request
from response_caches import InMemory as ExactInMemory
from response_caches import SmallResponseCache
from semantic_caches import InMemory as SemanticInMemory
from semantic_caches import OnRedis as SemanticOnRedis

AREA = "4 layered caches"


class SemanticBeside(SemanticOnRedis):
    """Names of its own, beside those of the exact layer."""

    def name(self) -> str:
        return f"{self.spec.namespace}/semantic"


class SmallLayeredCache:
    """Exact, then semantic, then the model, whose answers go to both."""

    capabilities: Any = frozenset(
        {
            *("redis", "shared", "processes", "ttl", "compute", "single flight", "policy"),
            *("clear", "counters", "warns", "stream", "copies", "ttl per layer"),
        }
    )
    exact_layer: Any = SmallResponseCache
    semantic_layer: Any = SemanticBeside

    def __init__(self, spec: LayeredSpec) -> None:
        self.model: Any = spec.model
        self.exact = self.exact_layer(replace(spec, ttl=self.times(spec)[0]))
        self.semantic = self.semantic_layer(replace(spec, ttl=self.times(spec)[1]))
        self.counted = {"exact": 0, "semantic": 0, "model": 0}
        self.flights: dict[str, asyncio.Task[Any]] = {}

    async def close(self) -> None:
        await self.exact.close()
        await self.semantic.close()

    # Layers

    def times(self, spec: LayeredSpec) -> list[float | None]:
        return [spec.ttl if own is None else own for own in (spec.exact_ttl, spec.semantic_ttl)]

    async def look(self, request: Request) -> Any:
        for layer, cache in self.layers():
            answer = await cache.get(request)
            if answer is not None:
                await self.served(layer, request, answer)
                return answer
        return None

    def layers(self) -> list[tuple[str, Any]]:
        return [("exact", self.exact), ("semantic", self.semantic)]

    async def served(self, layer: str, request: Request, answer: Answer) -> None:
        self.counted[layer] += 1

    async def ask(self, request: Request) -> Any:
        answer = await self.model.complete(request)
        self.counted["model"] += 1
        await self.keep(request, answer)
        return answer

    async def keep(self, request: Request, answer: Answer) -> None:
        await self.exact.set(request, answer)
        await self.semantic.set(request, answer)

    def passes(self, bypass: bool) -> bool:
        return bypass

    # What users call

    async def complete(self, request: Request, *, bypass: bool = False) -> Any:
        if self.passes(bypass):
            return await self.past_the_layers(request)
        found = await self.look(request)
        if found is not None:
            return found
        if not self.exact.may_share(request):
            return await self.model.complete(request)
        key = self.exact.key(request)
        if key not in self.flights:
            self.flights[key] = asyncio.create_task(self.fly(request, key))
            self.flights[key].add_done_callback(lambda task: task.cancelled() or task.exception())
        return copy.deepcopy(await asyncio.shield(self.flights[key]))

    async def past_the_layers(self, request: Request) -> Any:
        return await self.model.complete(request)

    async def fly(self, request: Request, key: str) -> Any:
        try:
            # Another may have ended between the look-up and this.
            return await self.look_again(request) or await self.ask(request)
        finally:
            del self.flights[key]

    async def look_again(self, request: Request) -> Any:
        return await self.look(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        found = await self.look(request)
        if found is not None:
            for chunk in self.replayed(found):
                yield chunk
            return
        self.counted["model"] += 1
        async with aclosing(self.streamed(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def streamed(self, request: Request) -> AsyncIterator[Any]:
        text = ""
        async with aclosing(self.model.stream(request)) as chunks:
            async for chunk in chunks:
                text += chunk["content"]
                if "finish_reason" in chunk:
                    await self.keep(request, {**chunk, "content": text})
                yield chunk

    def replayed(self, answer: Answer) -> list[Any]:
        return [{"content": answer["content"]}, {**answer, "content": ""}]

    async def clear(self) -> None:
        await self.exact.clear()
        await self.semantic.clear()

    async def counters(self) -> dict[str, int]:
        return self.counted


class InMemory(SmallLayeredCache):
    """Sound in another way: both layers in memory, neither shared."""

    capabilities = frozenset(
        {
            *("ttl", "compute", "single flight", "policy", "clear", "stream", "copies"),
            "ttl per layer",
        }
    )
    exact_layer = ExactInMemory
    semantic_layer = SemanticInMemory


class WholeThenPieces(SmallLayeredCache):
    """Sound in another way: a stream is the whole answer, in pieces of three characters."""

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        chunks = [chunk async for chunk in super().stream(request)]
        text = "".join(chunk["content"] for chunk in chunks)
        for first in range(0, len(text), 3):
            yield {"content": text[first : first + 3]}
        yield {**chunks[-1], "content": ""}


class Refreshing(SmallLayeredCache):
    """Sound in another way: what is answered with bypass takes the place of what is kept."""

    bypass_keeps = True

    async def past_the_layers(self, request: Request) -> Any:
        return await self.ask(request)


class RefreshingInMemory(InMemory):
    """Sound in another way: the same in memory, both layers emptied of it first."""

    bypass_keeps = True

    async def past_the_layers(self, request: Request) -> Any:
        answer = await self.model.complete(request)
        await asyncio.gather(self.semantic.set(request, answer), self.exact.set(request, answer))
        return answer


# Faults


class SemanticNotWritten(SmallLayeredCache):
    """C20: the second layer is never filled."""

    async def keep(self, request: Request, answer: Answer) -> None:
        await self.exact.set(request, answer)


class ExactNotWritten(SmallLayeredCache):
    """C20: the first layer is never filled; without the embedder nothing is found."""

    async def keep(self, request: Request, answer: Answer) -> None:
        await self.semantic.set(request, answer)


class SemanticFirst(SmallLayeredCache):
    """Not listed: the second layer is asked first, and its counter has what is the first's."""

    def layers(self) -> list[tuple[str, Any]]:
        return super().layers()[::-1]


class PromotedWithAWholeLife(SmallLayeredCache):
    """C23: a similar question's answer is written to the first layer, to live anew
    (BerriAI/litellm#33565)."""

    async def served(self, layer: str, request: Request, answer: Answer) -> None:
        await super().served(layer, request, answer)
        if layer == "semantic":
            await self.exact.set(request, answer)


class WrittenAgainWithEachHit(SmallLayeredCache):
    """C22: an answer that is served is kept anew."""

    async def served(self, layer: str, request: Request, answer: Answer) -> None:
        await super().served(layer, request, answer)
        await self.exact.set(request, answer)


class BypassOfTheFirst(SmallLayeredCache):
    """Not listed: with bypass, the second layer answers."""

    async def complete(self, request: Request, *, bypass: bool = False) -> Any:
        found = await self.semantic.get(request) if bypass else None
        return found or await super().complete(request, bypass=bypass)


class NoBypass(SmallLayeredCache):
    """Not listed: the flag is not looked at."""

    def passes(self, bypass: bool) -> bool:
        return False


class NoTenant(SemanticBeside):
    """C19: the second layer has no tenants (BerriAI/litellm#26992)."""

    def content(self, request: Request) -> dict[str, Any]:
        return {name: v for name, v in super().content(request).items() if name != "tenant"}


class SemanticWithoutTenants(SmallLayeredCache):
    """C19: a scope that one layer does not know."""

    semantic_layer = NoTenant


class KeepsAll(SemanticBeside):
    """Without the exact layer's policy."""

    def may_keep(self, request: Request, answer: Answer) -> bool:
        return True


class SemanticWithoutPolicy(SmallLayeredCache):
    """C04: what the first layer refuses, the second keeps."""

    semantic_layer = KeepsAll


class ModelErrorsAnswered(SmallLayeredCache):
    """Not listed: an error of the model becomes an answer."""

    async def ask(self, request: Request) -> Any:
        try:
            return await super().ask(request)
        except Exception as error:
            usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
            return {"content": str(error), "finish_reason": "stop", "usage": usage}


class EmbedderOnTheWay(SemanticBeside):
    """The embedder's errors are its caller's."""

    def embedded(self, text: str) -> Any:
        return self.spec.embed(text)


class NothingWithoutEmbedder(SmallLayeredCache):
    """Not listed: the embedder is down, and so is the service."""

    semantic_layer = EmbedderOnTheWay


class InMemoryOfEach(SmallLayeredCache):
    """Not listed: the second layer is this instance's own."""

    semantic_layer = SemanticInMemory


class NoFlight(SmallLayeredCache):
    """C29: equal requests at once all ask the model (jaredwray/cacheable#888)."""

    async def complete(self, request: Request, *, bypass: bool = False) -> Any:
        found = None if bypass else await self.look(request)
        return await self.ask(request) if found is None else found


class LookUpsCounted(SmallLayeredCache):
    """Not listed: each layer counts those that it passes on."""

    async def look(self, request: Request) -> Any:
        self.counted["semantic"] += 1
        return await super().look(request)


class FirstLayerCleared(InMemory):
    """C27: the second layer still answers."""

    async def clear(self) -> None:
        await self.exact.clear()


class StreamsPassBy(SmallLayeredCache):
    """C31: streams are neither kept nor served (BerriAI/litellm#24579)."""

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        async for chunk in self.model.stream(request):
            yield chunk


class StreamsNotKept(SmallLayeredCache):
    """C31: a stream is served from the cache, and not kept."""

    async def streamed(self, request: Request) -> AsyncIterator[Any]:
        async for chunk in self.model.stream(request):
            yield chunk


class IteratorKept(SmallLayeredCache):
    """C31: the iterator is kept, which is empty the second time (microsoft/autogen#6953)."""

    def __init__(self, spec: LayeredSpec) -> None:
        super().__init__(spec)
        self.iterators: dict[str, Any] = {}

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        key = self.exact.key(request)
        if key not in self.iterators:
            self.iterators[key] = super().stream(request)
        async for chunk in self.iterators[key]:
            yield chunk


class KeptHoweverItEnds(SmallLayeredCache):
    """C31: ``finally`` keeps what there is when the caller goes away (BerriAI/litellm#11145)."""

    async def streamed(self, request: Request) -> AsyncIterator[Any]:
        text = ""
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        try:
            async for chunk in self.model.stream(request):
                text += chunk["content"]
                yield chunk
        finally:
            await self.keep(request, {"content": text, "finish_reason": "stop", "usage": usage})


class KeptFromTheFirstPiece(SmallLayeredCache):
    """C31: kept as it grows."""

    async def streamed(self, request: Request) -> AsyncIterator[Any]:
        text = ""
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        async for chunk in self.model.stream(request):
            text += chunk["content"]
            await self.keep(request, {"content": text, "finish_reason": "stop", "usage": usage})
            yield chunk


class EndOfStreamsIgnored(SmallLayeredCache):
    """C31: a stream that was cut off at its limit is kept as whole."""

    async def keep(self, request: Request, answer: Answer) -> None:
        await super().keep(request, {**answer, "finish_reason": "stop"})


class LastPieceLost(SmallLayeredCache):
    """C31: the replay is not all of it."""

    def replayed(self, answer: Answer) -> list[Any]:
        words = answer["content"].split(" ")
        return [{"content": word if i == 0 else f" {word}"} for i, word in enumerate(words[:-1])]


class SpacesLost(SmallLayeredCache):
    """C31: replayed word by word, without what was between them."""

    def replayed(self, answer: Answer) -> list[Any]:
        return [{"content": word} for word in answer["content"].split()]


class OneIteratorForAll(SmallLayeredCache):
    """C31: streams at once share an iterator, and each gets a part."""

    def __init__(self, spec: LayeredSpec) -> None:
        super().__init__(spec)
        self.shared: dict[str, tuple[AsyncIterator[Any], asyncio.Lock]] = {}

    async def streamed(self, request: Request) -> AsyncIterator[Any]:
        key = self.exact.key(request)
        # One iterator for all who ask while it lasts; the lock lets them take turns.
        pieces, turn = self.shared.setdefault(key, (super().streamed(request), asyncio.Lock()))
        while True:
            async with turn:
                chunk = await anext(pieces, None)
            if chunk is None:
                self.shared.pop(key, None)
                return
            yield chunk


class BypassJoins(SmallLayeredCache):
    """Not listed: with bypass nothing is looked up, and an equal request's answer is taken."""

    async def past_the_layers(self, request: Request) -> Any:
        flight = self.flights.get(self.exact.key(request))
        return await super().past_the_layers(request) if flight is None else await flight


class OneCallAtATime(SmallLayeredCache):
    """Not listed: the model is behind a lock of each request, for bypass as well."""

    def __init__(self, spec: LayeredSpec) -> None:
        super().__init__(spec)
        self.lock = asyncio.Lock()

    async def ask(self, request: Request) -> Any:
        async with self.lock:
            return await super().ask(request)

    async def past_the_layers(self, request: Request) -> Any:
        async with self.lock:
            return await super().past_the_layers(request)


class BypassKept(SmallLayeredCache):
    """Not listed: bypass for the look-up alone, which nobody has declared."""

    past_the_layers = Refreshing.past_the_layers


class BypassKeptInTheFirst(Refreshing):
    """Not listed: similar questions get the old answer."""

    async def past_the_layers(self, request: Request) -> Any:
        answer = await self.model.complete(request)
        await self.exact.set(request, answer)
        return answer


class BypassKeptWhereNothingWas(Refreshing):
    """Not listed: what is kept already stays."""

    async def past_the_layers(self, request: Request) -> Any:
        answer = await self.model.complete(request)
        if await self.exact.get(request) is None:
            await self.keep(request, answer)
        return answer


class OneTimeForBoth(SmallLayeredCache):
    """Not listed: the exact layer's time is that of both."""

    def times(self, spec: LayeredSpec) -> list[float | None]:
        return super().times(spec)[:1] * 2


class TimesExchanged(SmallLayeredCache):
    """Not listed: each layer has the other's time."""

    def times(self, spec: LayeredSpec) -> list[float | None]:
        return super().times(spec)[::-1]


class NotLookedUpAgain(SmallLayeredCache):
    """Not listed: a look-up, then the table of flights, and nobody looks again."""

    async def look_again(self, request: Request) -> Any:
        return None


@dataclass(frozen=True)
class LayeredMutant:
    """``by``: the property's assertion, or the error with which the fault comes to the caller."""

    fault: type[SmallLayeredCache]
    broken: str
    by: type[Exception] = AssertionError


ONCE = "test_the_model_is_asked_once"
CONTEXTS = "test_other_contexts_ask_the_model"
BYPASS = "test_with_bypass_the_model_answers"
POLICY = "test_no_layer_keeps_what_must_not_be_kept"
END = "test_no_layer_answers_after_the_end"
EMBEDDER = "test_without_its_embedder_equal_requests_are_served"
REPLAYED = "test_a_stream_is_replayed_whole"
BREAKS = "test_a_stream_that_breaks_off_is_not_kept"
COUNTED = "test_each_layer_counts_what_it_answered"
JOINS = "test_a_request_with_bypass_joins_no_other"
DECLARED = "test_what_is_answered_with_bypass_is_kept_as_declared"
LAYER_TIMES = "test_each_layer_has_its_own_time_to_live"
MUTANTS = [
    LayeredMutant(SemanticNotWritten, ONCE),
    LayeredMutant(ExactNotWritten, EMBEDDER),
    LayeredMutant(SemanticFirst, COUNTED),
    LayeredMutant(PromotedWithAWholeLife, END),
    LayeredMutant(WrittenAgainWithEachHit, END),
    LayeredMutant(WrittenAgainWithEachHit, "test_hits_do_not_make_it_live_longer"),
    LayeredMutant(BypassOfTheFirst, BYPASS),
    LayeredMutant(NoBypass, BYPASS),
    LayeredMutant(SemanticWithoutTenants, CONTEXTS),
    LayeredMutant(SemanticWithoutTenants, "test_every_field_is_told_apart"),
    LayeredMutant(SemanticWithoutPolicy, POLICY),
    LayeredMutant(ModelErrorsAnswered, "test_a_failing_model_is_asked_again"),
    LayeredMutant(ModelErrorsAnswered, "test_what_fails_is_raised_and_not_kept"),
    LayeredMutant(NothingWithoutEmbedder, EMBEDDER, ConnectionError),
    LayeredMutant(InMemoryOfEach, "test_other_instances_answer_from_both_layers"),
    LayeredMutant(NoFlight, "test_equal_requests_at_once_compute_once"),
    LayeredMutant(LookUpsCounted, COUNTED),
    LayeredMutant(FirstLayerCleared, "test_clearing_forgets_all_of_this_namespace_and_no_other"),
    LayeredMutant(BypassJoins, JOINS),
    LayeredMutant(OneCallAtATime, JOINS),
    LayeredMutant(NoBypass, JOINS),
    LayeredMutant(BypassKept, DECLARED),
    LayeredMutant(BypassKeptInTheFirst, DECLARED),
    LayeredMutant(BypassKeptWhereNothingWas, DECLARED),
    LayeredMutant(OneTimeForBoth, LAYER_TIMES),
    LayeredMutant(TimesExchanged, LAYER_TIMES),
    LayeredMutant(PromotedWithAWholeLife, LAYER_TIMES),
    LayeredMutant(NotLookedUpAgain, "test_who_waits_for_the_store_as_it_ends_computes_nothing"),
    LayeredMutant(StreamsPassBy, REPLAYED),
    LayeredMutant(StreamsNotKept, REPLAYED),
    LayeredMutant(IteratorKept, REPLAYED),
    LayeredMutant(KeptHoweverItEnds, BREAKS),
    LayeredMutant(KeptFromTheFirstPiece, BREAKS),
    LayeredMutant(EndOfStreamsIgnored, BREAKS),
    LayeredMutant(LastPieceLost, REPLAYED),
    LayeredMutant(SpacesLost, REPLAYED),
    LayeredMutant(OneIteratorForAll, "test_streams_at_once_are_whole"),
]
SOUND: list[Any] = [SmallLayeredCache, InMemory, WholeThenPieces, Refreshing, RefreshingInMemory]
