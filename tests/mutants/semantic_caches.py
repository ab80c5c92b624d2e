"""Two small semantic caches that are right, on Redis and in memory, and the same with faults."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import redis as synchronous
from infopt_suites.caching import Answer, Request, SemanticSpec
from redis.exceptions import RedisError
from response_caches import FAILURES, SmallResponseCache

AREA = "4 semantic caches"
_ROUNDING = 1e-7  # by which a cosine of 1 may come out less
Row = tuple[str, np.ndarray]  # the name of an entry, and its vector


class OnRedis(SmallResponseCache):
    """A list of vectors for each context, an answer under the name of each of its entries."""

    capabilities: Any = frozenset(
        {
            *("redis", "shared", "processes", "ttl", "compute", "single flight", "policy"),
            *("clear", "counters", "warns", "sync", "copies"),
        }
    )
    spec: SemanticSpec

    # Questions

    def question(self, request: Request) -> str | None:
        last = request["messages"][-1]
        text = last["content"]
        return text if last["role"] == "user" and isinstance(text, str) and text.strip() else None

    def context(self, request: Request) -> str:
        return self.digest(self.text([self.around(request), self.embedder()]))

    def around(self, request: Request) -> Any:
        content = self.content(request)
        *before, last = content.pop("messages")
        return [content, before, {name: last[name] for name in last if name != "content"}]

    def embedder(self) -> Any:
        return [self.spec.embedder, self.spec.dimension]

    def vector(self, text: str) -> Any:
        """Of length 1; None where there is no such vector."""
        vector = np.asarray(self.embedded(text), dtype=np.float64)
        if vector.shape != (self.spec.dimension,) or not np.isfinite(vector).all():
            return None
        length = np.linalg.norm(vector)
        return None if length == 0 else self.kept_as(vector / length)

    def embedded(self, text: str) -> Any:
        try:
            return self.spec.embed(text)
        except Exception as error:
            self.failed(error)
            return []

    def kept_as(self, vector: np.ndarray) -> np.ndarray:
        return vector

    # Search

    def score(self, kept: np.ndarray, asked: np.ndarray) -> float:
        return float(kept @ asked)

    def is_near(self, score: float) -> bool:
        return score >= self.threshold() - _ROUNDING

    def threshold(self) -> float:
        return self.spec.threshold

    def matches(self, asked: np.ndarray, rows: Sequence[Row]) -> list[str]:
        """Names of entries that are near, the nearest first."""
        scores = [(self.score(kept, asked), name) for name, kept in rows]
        return [name for score, name in self.ranked(scores) if self.is_near(score)]

    def ranked(self, scores: list[tuple[float, str]]) -> list[tuple[float, str]]:
        return sorted(scores, key=lambda pair: -pair[0])

    def tried(self, names: list[str]) -> list[str]:
        return names

    # The store

    def list_of(self, context: str) -> str:
        return f"{self.name()}/vectors/{context}"

    async def rows(self, context: str) -> list[Row]:
        held = await self.redis.lrange(self.list_of(context), 0, -1)  # type: ignore[misc]
        return self.readable_rows(held)

    def readable_rows(self, held: Sequence[bytes]) -> list[Row]:
        rows = []
        for each in held:
            try:
                name, vector = json.loads(each)
                row = name, np.array(vector, dtype=np.float64)
            except (ValueError, TypeError):
                continue  # of another program, or half of one
            if isinstance(name, str) and row[1].shape == (self.spec.dimension,):
                rows.append(row)
        return rows

    def entry(self, context: str, text: str) -> str:
        return f"{self.name()}/answers/{self.digest(context + text)}"

    async def get(self, request: Request) -> Any:
        text = self.question(request) if self.may_share(request) else None
        asked = None if text is None else self.vector(text)
        if asked is None:
            return None
        try:
            rows = await self.rows(self.context(request))
            names = self.tried(self.matches(asked, rows))
            values = await self.redis.mget(names) if names else []
            answer = self.first(values)
            await self.found(names, answer)
        except FAILURES as error:
            self.failed(error)
            return None
        try:
            await self.count("misses" if answer is None else "hits")
        except FAILURES as error:
            self.failed(error)
        return answer

    def first(self, values: Sequence[Any]) -> Any:
        answers = (self.readable(value) for value in values if value is not None)
        return next((answer for answer in answers if answer is not None), None)

    async def found(self, names: list[str], answer: Any) -> None:
        """What a hit leaves behind: nothing."""

    def lookup(self, request: Request) -> Any:
        if not self.may_share(request):
            return None
        asked = self.vector(self.question(request) or "")
        client = synchronous.Redis.from_url(self.spec.redis_url or "")
        try:
            held: Any = client.lrange(self.list_of(self.context(request)), 0, -1)
            names = self.near_without_a_loop(asked, self.readable_rows(held))
            values: Any = client.mget(names) if names else []
            return self.first(values)
        finally:
            client.close()

    def near_without_a_loop(self, asked: np.ndarray, rows: Sequence[Row]) -> list[str]:
        return self.matches(asked, rows)

    async def set(self, request: Request, answer: Answer) -> None:
        text = self.question(request)
        vector = None if text is None else self.vector(text)
        if text is None or vector is None or not self.may_keep(request, answer):
            return
        try:
            await self.write(self.context(request), text, vector, answer)
        except FAILURES as error:
            self.failed(error)

    async def write(self, context: str, text: str, vector: np.ndarray, answer: Answer) -> None:
        name = self.entry(context, text)
        await self.store(name, self.encode(answer))
        await self.add(context, name, vector)

    async def add(self, context: str, name: str, vector: np.ndarray) -> None:
        known = [each for each, _ in await self.rows(context)]
        if name not in known:
            await self.redis.rpush(  # type: ignore[misc]
                self.list_of(context), json.dumps([name, vector.tolist()])
            )


@dataclass
class Entry:
    """One question of the cache in memory."""

    context: str
    text: str
    vector: np.ndarray
    ends: float
    answer: Any


class InMemory(OnRedis):
    """Entries in a list; the oldest goes when there is no room."""

    capabilities: Any = frozenset(
        {
            *("ttl", "capacity", "compute", "single flight", "policy", "clear", "counters"),
            *("values", "copies"),
        }
    )

    def connect(self) -> None:
        self.held: list[Entry] = []
        self.counted = {"hits": 0, "misses": 0}

    async def close(self) -> None:
        pass

    async def get(self, request: Request) -> Any:
        text = self.question(request) if self.may_share(request) else None
        asked = None if text is None else self.vector(text)
        answer = None if asked is None else self.best(self.context(request), asked)
        self.counted["misses" if answer is None else "hits"] += 1
        return answer

    def best(self, context: str, asked: np.ndarray) -> Any:
        now = self.spec.clock()
        there = [each for each in self.held if each.context == context and now < each.ends]
        scores = [self.score(each.vector, asked) for each in there]
        if not scores or not self.is_near(max(scores)):
            return None
        return copy.deepcopy(there[int(np.argmax(scores))].answer)

    async def write(self, context: str, text: str, vector: np.ndarray, answer: Answer) -> None:
        ttl = math.inf if self.spec.ttl is None else self.spec.ttl
        self.forget(context, text)
        entry = Entry(context, text, vector, self.spec.clock() + ttl, copy.deepcopy(answer))
        self.held.append(entry)
        while self.spec.capacity is not None and len(self.held) > self.spec.capacity:
            self.evict()

    def forget(self, context: str, text: str) -> None:
        self.held = [each for each in self.held if (each.context, each.text) != (context, text)]

    def evict(self) -> None:
        del self.held[0]

    async def clear(self) -> None:
        self.held = []

    async def counters(self) -> dict[str, int]:
        return self.counted


class ByDistance(OnRedis):
    """Sound in another way: Euclidean distance of unit vectors, which is √(2 − 2·cosine)."""

    def score(self, kept: np.ndarray, asked: np.ndarray) -> float:
        return -float(np.linalg.norm(kept - asked))

    def is_near(self, score: float) -> bool:
        return -score <= math.sqrt(2 - 2 * self.spec.threshold) + _ROUNDING


class Raising(OnRedis):
    """Sound in another way: the embedder's errors are its callers', as is declared."""

    embedder_errors = "raised"

    def embedded(self, text: str) -> Any:
        return self.spec.embed(text)


# Faults: similarity


class SimilarityForDistance(OnRedis):
    """C17: near is what has a small similarity (BerriAI/litellm#12234)."""

    def is_near(self, score: float) -> bool:
        return score <= 1 - self.spec.threshold


class AbsoluteValue(OnRedis):
    """Not listed: opposite questions are taken for equal ones."""

    def score(self, kept: np.ndarray, asked: np.ndarray) -> float:
        return abs(super().score(kept, asked))


class FromMinusOneToOne(OnRedis):
    """C16: (1 + cosine) / 2 is compared with a threshold of the cosine."""

    def score(self, kept: np.ndarray, asked: np.ndarray) -> float:
        return (1 + super().score(kept, asked)) / 2


class ThresholdOfItsOwn(OnRedis):
    """Not listed: the threshold is not passed on."""

    def is_near(self, score: float) -> bool:
        return score >= 0.9


class Rounded(OnRedis):
    """Not listed: the similarity is rounded before it is compared."""

    def is_near(self, score: float) -> bool:
        return round(score, 2) >= self.spec.threshold


class HalfPrecision(OnRedis):
    """Not listed: vectors are kept in float16, and what is near the threshold falls off."""

    def kept_as(self, vector: np.ndarray) -> np.ndarray:
        return vector.astype(np.float16)


class NotNormalized(OnRedis):
    """C17: a dot product of whatever the embedder returns."""

    def vector(self, text: str) -> Any:
        unit = super().vector(text)
        return None if unit is None else np.asarray(self.embedded(text), dtype=np.float64)


class SmallLengthsAreZero(OnRedis):
    """Not listed: an epsilon in the denominator swallows short vectors."""

    def vector(self, text: str) -> Any:
        unit = super().vector(text)
        if unit is None:
            return None
        vector = np.asarray(self.embedded(text), dtype=np.float64)
        return vector / max(np.linalg.norm(vector), 0.01)


class DistanceScaledTwice(OnRedis):
    """C16: one way converts 2 − 2t, the other does not (redis/redis-vl-python#444)."""

    def near_without_a_loop(self, asked: np.ndarray, rows: Sequence[Row]) -> list[str]:
        most = 2 - 2 * (1 - self.spec.threshold)
        near = [(1 - self.score(kept, asked), name) for name, kept in rows]
        return [name for distance, name in sorted(near) if distance <= most]


class NothingWithoutALoop(OnRedis):
    """C20: the other way never hits."""

    def near_without_a_loop(self, asked: np.ndarray, rows: Sequence[Row]) -> list[str]:
        return []


class NanIsNear(OnRedis):
    """C17, K55: what is not below the threshold is near, NaN too."""

    def vector(self, text: str) -> Any:
        vector = np.asarray(self.embedded(text), dtype=np.float64)
        if vector.shape != (self.spec.dimension,):
            return None
        with np.errstate(all="ignore"):
            return vector / np.linalg.norm(vector)

    def is_near(self, score: float) -> bool:
        return not score < self.spec.threshold


class NanHidesAll(InMemory):
    """Not listed: the maximum of scores with NaN among them is NaN."""

    def vector(self, text: str) -> Any:
        vector = np.asarray(self.embedded(text), dtype=np.float64)
        if vector.shape != (self.spec.dimension,):
            return None
        with np.errstate(all="ignore"):
            return vector / np.linalg.norm(vector)

    def best(self, context: str, asked: np.ndarray) -> Any:
        there = [each for each in self.held if each.context == context]
        scores = np.array([self.score(each.vector, asked) for each in there])
        if not len(scores) or not scores[scores.argmax()] >= self.spec.threshold:
            return None
        return copy.deepcopy(there[int(scores.argmax())].answer)


class AnyLength(InMemory):
    """Not listed: a vector of another length is an error of the matrix product."""

    def vector(self, text: str) -> Any:
        vector = np.asarray(self.embedded(text), dtype=np.float64)
        usable = np.isfinite(vector).all() and bool(vector.any())
        return vector / np.linalg.norm(vector) if usable else None


class FirstThatIsNear(OnRedis):
    """Not listed: the oldest that is near enough."""

    def ranked(self, scores: list[tuple[float, str]]) -> list[tuple[float, str]]:
        return scores


class NewestThatIsNear(OnRedis):
    """Not listed: the newest that is near enough."""

    def ranked(self, scores: list[tuple[float, str]]) -> list[tuple[float, str]]:
        return scores[::-1]


class FarthestFirst(OnRedis):
    """C17: sorted the wrong way round."""

    def ranked(self, scores: list[tuple[float, str]]) -> list[tuple[float, str]]:
        return sorted(scores, key=lambda pair: pair[0])


class AnyOfTies(OnRedis):
    """Not listed: of equally near ones, another each time."""

    def ranked(self, scores: list[tuple[float, str]]) -> list[tuple[float, str]]:
        drawn = random.Random(AnyOfTies.drawn)
        AnyOfTies.drawn += 1
        return sorted(scores, key=lambda pair: (-round(pair[0], 6), drawn.random()))

    drawn = 0


class AnswersCompared(InMemory):
    """Not listed: the maximum of pairs compares answers where scores are equal."""

    def best(self, context: str, asked: np.ndarray) -> Any:
        scored = [
            (self.score(each.vector, asked), each.answer)
            for each in self.held
            if each.context == context and self.spec.clock() < each.ends
        ]
        score, answer = max(scored, default=(-1.0, None))
        return copy.deepcopy(answer) if self.is_near(score) else None


class LastFew(OnRedis):
    """Not listed: an index that holds the last eight."""

    def matches(self, asked: np.ndarray, rows: Sequence[Row]) -> list[str]:
        return super().matches(asked, rows[-8:])


class WordForWord(OnRedis):
    """C20: safe and of little use; only the same question hits."""

    def is_near(self, score: float) -> bool:
        return score >= 1 - 1e-9


# Faults: contexts


class NoModel(OnRedis):
    """C21: the model is no part of the context (akash-coded/nanorag#45)."""

    def content(self, request: Request) -> dict[str, Any]:
        return {name: v for name, v in super().content(request).items() if name != "model"}


class NoTenant(OnRedis):
    """C19: answers of one tenant for another (BerriAI/litellm#26992)."""

    def content(self, request: Request) -> dict[str, Any]:
        return {name: v for name, v in super().content(request).items() if name != "tenant"}


class TheQuestionAlone(OnRedis):
    """C21: no system prompt, no history (vllm-project/semantic-router#3423)."""

    def around(self, request: Request) -> Any:
        return [super().around(request)[0]]


class NoParameters(OnRedis):
    """C21: temperature, tools, format of the answer are no part of it."""

    def content(self, request: Request) -> dict[str, Any]:
        kept = ("model", "messages", "tenant", "adapter")
        return {name: request[name] for name in kept if name in request}


class AnyEmbedder(OnRedis):
    """C21: vectors of another embedder are compared."""

    def embedder(self) -> Any:
        return None


class AnyNamespace(OnRedis):
    """C21: the namespace is ignored (upstash/semantic-cache#5)."""

    def name(self) -> str:
        return self.spec.namespace[:16]


class BestOfAllThenFiltered(OnRedis):
    """C20: the best few of all contexts, and those of this one among them."""

    def list_of(self, context: str) -> str:
        self.wanted = context[:8]
        return f"{self.name()}/vectors/all"

    def entry(self, context: str, text: str) -> str:
        return f"{super().entry(context, text)}/{context[:8]}"

    def matches(self, asked: np.ndarray, rows: Sequence[Row]) -> list[str]:
        best = super().matches(asked, rows)[:10]
        return [name for name in best if name.endswith(self.wanted)]


# Faults: time, room, several entries


class ExpiryAnewWithEachHit(OnRedis):
    """C22: a hit lets its entry live longer (redis/redis-vl-python#603)."""

    async def found(self, names: list[str], answer: Any) -> None:
        if answer is not None and self.spec.ttl is not None:
            await self.redis.pexpire(names[0], round(self.spec.ttl * 1000))


class TheBestAlone(OnRedis):
    """Not listed: an answer that is over hides those that live."""

    def tried(self, names: list[str]) -> list[str]:
        return names[:1]


class EvictedFromTheAnswers(InMemory):
    """C36: the vector stays, and finds an answer that is gone (zilliztech/GPTCache#440)."""

    def evict(self) -> None:
        raise NotImplementedError

    async def write(self, context: str, text: str, vector: np.ndarray, answer: Answer) -> None:
        self.forget(context, text)
        entry = Entry(context, text, vector, math.inf, copy.deepcopy(answer))
        self.held.append(entry)
        if self.spec.capacity is not None:
            for each in self.held[: -self.spec.capacity]:
                each.answer = {}


class RowsMoveUp(InMemory):
    """C36: the vector goes, and each answer behind it belongs to the next question."""

    def evict(self) -> None:
        answers = [each.answer for each in self.held]
        del self.held[0]
        for each, answer in zip(self.held, answers, strict=False):
            each.answer = answer


class NothingEvicted(InMemory):
    """Not listed: there is room for all."""

    def evict(self) -> None:
        self.spec = replace(self.spec, capacity=None)


class AnEntryForEachTime(OnRedis):
    """Not listed: the same question twice, and the older answer is found."""

    written = 0

    def entry(self, context: str, text: str) -> str:
        AnEntryForEachTime.written += 1
        return f"{super().entry(context, text)}/{AnEntryForEachTime.written}"


class NearestOverwritten(OnRedis):
    """Not listed: a similar question's answer is written over."""

    async def write(self, context: str, text: str, vector: np.ndarray, answer: Answer) -> None:
        near = self.matches(vector, await self.rows(context))
        if near:
            await self.store(near[0], self.encode(answer))
        else:
            await super().write(context, text, vector, answer)


class ReadExtendedWritten(OnRedis):
    """Not listed: the index is one value, and of two that write at once one is lost."""

    async def rows(self, context: str) -> list[Row]:
        held = json.loads(await self.redis.get(self.list_of(context)) or "[]")
        return [(name, np.array(vector)) for name, vector in held]

    async def add(self, context: str, name: str, vector: np.ndarray) -> None:
        rows = [[n, v.tolist()] for n, v in await self.rows(context) if n != name]
        await self.redis.set(self.list_of(context), json.dumps([*rows, [name, vector.tolist()]]))


class ReadOnce(OnRedis):
    """Not listed: what others keep after the first look is not seen."""

    def connect(self) -> None:
        super().connect()
        self.read: dict[str, list[Row]] = {}

    async def rows(self, context: str) -> list[Row]:
        if context not in self.read:
            self.read[context] = await super().rows(context)
        return self.read[context]

    async def add(self, context: str, name: str, vector: np.ndarray) -> None:
        await super().add(context, name, vector)
        self.read[context].append((name, vector))


class EmbedderErrorsRaised(OnRedis):
    """Not listed: the embedder is down, and so is the service."""

    def embedded(self, text: str) -> Any:
        return self.spec.embed(text)


class ScannedAndFetched(OnRedis):
    """C26: all keys, one after another."""

    async def rows(self, context: str) -> list[Row]:
        found = []
        async for key in self.redis.scan_iter(match=f"{self.name()}/vectors/*"):
            if key.decode() == self.list_of(context):
                found += await super().rows(context)
        return found


class OneByOne(OnRedis):
    """C26: a command for each vector."""

    async def rows(self, context: str) -> list[Row]:
        count = await self.redis.llen(self.list_of(context))  # type: ignore[misc]
        held = [await self.redis.lindex(self.list_of(context), i) for i in range(count)]  # type: ignore[misc]
        return self.readable_rows(held)


class StoreErrorsRaised(OnRedis):
    """Not listed: the server is down, and so is the service."""

    def failed(self, error: Exception) -> None:
        raise error


class ZeroIsTheDefault(OnRedis):
    """Not listed: ``threshold or 0.9``."""

    def threshold(self) -> float:
        return self.spec.threshold or 0.9


class OneIsNoHit(OnRedis):
    """Not listed: a cosine is never quite 1, and must be."""

    def is_near(self, score: float) -> bool:
        return min(score, 1 - 1e-9) >= self.spec.threshold


class AtMostAlmostOne(OnRedis):
    """Not listed: a threshold of 1 is brought down to what hits."""

    def threshold(self) -> float:
        return min(self.spec.threshold, 0.85)


class ThresholdOfTheIndex(OnRedis):
    """Not listed: the first instance of a namespace makes its index, with its threshold."""

    thresholds_by_name: ClassVar[dict[str, float]] = {}

    def threshold(self) -> float:
        return float(self.thresholds_by_name.setdefault(self.name(), self.spec.threshold))


class ThresholdOfTheLast(OnRedis):
    """Not listed: one threshold for a namespace, of the instance that was opened last."""

    thresholds_by_name: ClassVar[dict[str, float]] = {}

    def connect(self) -> None:
        super().connect()
        self.thresholds_by_name[self.name()] = self.spec.threshold

    def threshold(self) -> float:
        return float(self.thresholds_by_name[self.name()])


class SwallowedThoughDeclared(OnRedis):
    """Not listed: errors of the embedder are declared to be raised, and are not."""

    embedder_errors = "raised"


class RaisedAsAnother(Raising):
    """Not listed: the embedder's error becomes one that says nothing of it."""

    def embedded(self, text: str) -> Any:
        try:
            return super().embedded(text)
        except ConnectionError:
            raise KeyError(text) from None


@dataclass(frozen=True)
class SemanticMutant:
    """``by``: the property's assertion, or the error with which the fault comes to the caller."""

    fault: type[OnRedis]
    broken: str
    by: type[Exception] = AssertionError


NEAR = "test_similar_questions_hit_from_the_threshold_on"
LENGTH = "test_the_length_of_an_embedding_makes_no_difference"
BROKEN = "test_an_embedding_without_a_direction_hits_nothing"
BEST = "test_the_most_similar_question_answers"
TIES = "test_equally_similar_questions_answer_the_same_way_each_time"
ALL = "test_answers_agree_with_comparing_all"
CONTEXT = "test_only_questions_of_the_same_context_are_compared"
WAY = "test_other_contexts_do_not_stand_in_the_way"
LONGER = "test_a_similar_question_does_not_make_it_live_longer"
EVICTED = "test_what_was_evicted_answers_no_more"
REPLACED = "test_a_similar_question_gets_the_answer_that_replaced_another"
AT_ONCE = "test_questions_kept_at_once_are_all_found"
SYNC = "test_looking_up_without_a_loop_finds_the_same"
OTHERS = "test_other_instances_find_similar_questions"
COST = "test_a_look_up_costs_the_same_however_much_is_kept"
ENDS = "test_the_least_and_the_largest_threshold_are_taken_as_they_are"
THRESHOLDS = "test_each_instance_keeps_to_its_own_threshold"
MUTANTS = [
    SemanticMutant(SimilarityForDistance, NEAR),
    SemanticMutant(AbsoluteValue, NEAR),
    SemanticMutant(AbsoluteValue, ALL),
    SemanticMutant(FromMinusOneToOne, NEAR),
    SemanticMutant(ThresholdOfItsOwn, NEAR),
    SemanticMutant(Rounded, NEAR),
    SemanticMutant(HalfPrecision, NEAR),
    SemanticMutant(NotNormalized, LENGTH),
    SemanticMutant(NotNormalized, ALL),
    SemanticMutant(SmallLengthsAreZero, LENGTH),
    SemanticMutant(DistanceScaledTwice, SYNC),
    SemanticMutant(NothingWithoutALoop, SYNC),
    SemanticMutant(NanIsNear, BROKEN),
    SemanticMutant(NanHidesAll, BROKEN),
    SemanticMutant(AnyLength, BROKEN, ValueError),
    SemanticMutant(FirstThatIsNear, BEST),
    SemanticMutant(FirstThatIsNear, ALL),
    SemanticMutant(NewestThatIsNear, BEST),
    SemanticMutant(FarthestFirst, BEST),
    SemanticMutant(AnyOfTies, TIES),
    SemanticMutant(AnswersCompared, TIES, TypeError),
    SemanticMutant(LastFew, AT_ONCE),
    SemanticMutant(WordForWord, NEAR),
    SemanticMutant(NoModel, CONTEXT),
    SemanticMutant(NoModel, "test_every_field_is_told_apart"),
    SemanticMutant(NoTenant, CONTEXT),
    SemanticMutant(TheQuestionAlone, CONTEXT),
    SemanticMutant(TheQuestionAlone, "test_every_field_is_told_apart"),
    SemanticMutant(NoParameters, CONTEXT),
    SemanticMutant(AnyEmbedder, "test_another_embedder_compares_with_nothing"),
    SemanticMutant(AnyNamespace, "test_namespaces_do_not_meet"),
    SemanticMutant(BestOfAllThenFiltered, WAY),
    SemanticMutant(ExpiryAnewWithEachHit, LONGER),
    SemanticMutant(ExpiryAnewWithEachHit, "test_hits_do_not_make_it_live_longer"),
    SemanticMutant(TheBestAlone, LONGER),
    SemanticMutant(EvictedFromTheAnswers, EVICTED),
    SemanticMutant(RowsMoveUp, EVICTED),
    SemanticMutant(NothingEvicted, EVICTED),
    SemanticMutant(AnEntryForEachTime, REPLACED),
    SemanticMutant(NearestOverwritten, REPLACED),
    SemanticMutant(ReadExtendedWritten, AT_ONCE),
    SemanticMutant(ReadOnce, OTHERS),
    SemanticMutant(EmbedderErrorsRaised, "test_an_embedder_that_fails_is_a_miss", ConnectionError),
    SemanticMutant(ZeroIsTheDefault, ENDS),
    SemanticMutant(OneIsNoHit, ENDS),
    SemanticMutant(AtMostAlmostOne, ENDS),
    SemanticMutant(ThresholdOfTheIndex, THRESHOLDS),
    SemanticMutant(ThresholdOfTheLast, THRESHOLDS),
    SemanticMutant(SwallowedThoughDeclared, "test_an_embedder_that_fails_is_a_miss"),
    SemanticMutant(RaisedAsAnother, "test_an_embedder_that_fails_is_a_miss"),
    SemanticMutant(ReadExtendedWritten, "test_writers_at_once_lose_nothing"),
    SemanticMutant(ScannedAndFetched, COST),
    SemanticMutant(OneByOne, COST),
    SemanticMutant(StoreErrorsRaised, "test_a_store_that_fails_is_a_miss", RedisError),
]
SOUND: list[Any] = [OnRedis, ByDistance, InMemory, Raising]
