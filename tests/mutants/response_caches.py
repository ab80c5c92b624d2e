"""A small response cache on Redis that is right, and the same with faults of real ones."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import pickle
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis.asyncio as redis
from infopt_suites.caching import Answer, CacheSpec, Request
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

AREA = "4 response caches"
FAILURES = (RedisError, OSError, asyncio.TimeoutError)
IRRELEVANT = {"timeout", "user", "metadata"}


class SmallResponseCache:
    """One string of JSON for each request, under the hash of the request."""

    capabilities: Any = frozenset(
        {
            *("redis", "shared", "processes", "ttl", "compute", "single flight", "batch"),
            *("policy", "clear", "counters", "warns", "copies"),
        }
    )

    def __init__(self, spec: CacheSpec) -> None:
        self.spec = spec
        self.flights: dict[str, asyncio.Task[Any]] = {}
        self.connect()

    def connect(self) -> None:
        assert self.spec.redis_url is not None
        self.redis = redis.Redis.from_url(
            self.spec.redis_url,
            socket_timeout=self.timeout(),
            socket_connect_timeout=self.timeout(),
            retry=Retry(NoBackoff(), self.retries()),
        )

    def timeout(self) -> float | None:
        return self.spec.redis_timeout

    def retries(self) -> int:
        return 1  # a connection that went away while nobody used it

    async def close(self) -> None:
        for flight in self.flights.values():
            flight.cancel()
        await asyncio.gather(*self.flights.values(), return_exceptions=True)
        await self.redis.aclose()

    # Keys

    def name(self) -> str:
        return self.spec.namespace

    def key(self, request: Request) -> str:
        return f"{self.name()}/{self.digest(self.text(self.content(request)))}"

    def content(self, request: Request) -> dict[str, Any]:
        return {name: request[name] for name in request if name not in IRRELEVANT}

    def text(self, content: Any) -> str:
        return json.dumps(content, sort_keys=True)

    def digest(self, text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    # Values

    def encode(self, answer: Any) -> bytes:
        return json.dumps({"format": 1, "answer": answer}).encode()

    def decode(self, value: bytes) -> Any:
        held = json.loads(value)
        if not isinstance(held, dict) or held.get("format") != 1:
            raise ValueError("of another program")
        return held["answer"]

    def readable(self, value: bytes) -> Any:
        try:
            return self.decode(value)
        except (ValueError, KeyError):
            return None

    # Policy

    def may_keep(self, request: Request, answer: Answer) -> bool:
        return self.may_share(request) and self.whole(answer)

    def may_share(self, request: Request) -> bool:
        return self.spec.cache_sampled or self.temperature(request) == 0

    def temperature(self, request: Request) -> float:
        return float(request.get("temperature", 1.0))

    def whole(self, answer: Answer) -> bool:
        finished = answer["finish_reason"] == "stop"
        return finished and bool(answer["content"] or answer.get("tool_calls"))

    # The store

    def failed(self, error: Exception) -> None:
        logging.getLogger(__name__).warning("the cache's store failed: %r", error)

    async def fetch(self, key: str) -> bytes | None:
        value = await self.redis.get(key)
        assert value is None or isinstance(value, bytes)
        return value

    async def store(self, key: str, value: bytes) -> None:
        await self.redis.set(key, value, px=self.milliseconds())

    def milliseconds(self) -> int | None:
        return None if self.spec.ttl is None else round(self.spec.ttl * 1000)

    async def count(self, what: str) -> None:
        await self.redis.hincrby(f"{self.name()}/counters", what, 1)

    async def look(self, key: str) -> Any:
        try:
            value = await self.fetch(key)
        except FAILURES as error:
            self.failed(error)
            return None
        answer = None if value is None else self.readable(value)
        try:
            await self.count("misses" if answer is None else "hits")
        except FAILURES as error:
            self.failed(error)
        return answer

    async def keep(self, key: str, answer: Answer) -> None:
        try:
            await self.store(key, self.encode(answer))
        except FAILURES as error:
            self.failed(error)

    # What users call

    async def get(self, request: Request) -> Any:
        return await self.look(self.key(request)) if self.may_share(request) else None

    async def set(self, request: Request, answer: Answer) -> None:
        if self.may_keep(request, answer):
            await self.keep(self.key(request), answer)

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        if not self.may_share(request):
            return await compute()
        key = self.key(request)
        flight = self.flights.get(key)
        if flight is None:  # which looks whether there is an answer
            flight = asyncio.create_task(self.fly(request, key, compute))
            flight.add_done_callback(lambda task: task.cancelled() or task.exception())
            self.flights[key] = flight
        return self.copied(await self.wait(flight))

    async def wait(self, flight: asyncio.Task[Any]) -> Any:
        return await asyncio.shield(flight)

    async def fly(self, request: Request, key: str, compute: Any) -> Any:
        try:
            found = await self.get(request)
            return await self.computed(request, compute) if found is None else found
        finally:
            self.land(key)

    async def computed(self, request: Request, compute: Any) -> Any:
        answer = await compute()
        await self.set(request, answer)
        return answer

    def land(self, key: str) -> None:
        self.flights.pop(key, None)

    def copied(self, answer: Any) -> Any:
        return copy.deepcopy(answer)

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        found = [await self.get(request) for request in requests]
        missing = {
            self.key(request): request
            for request, answer in zip(requests, found, strict=True)
            if answer is None
        }
        computed = {}
        if missing:
            answers = self.in_order(await compute(list(missing.values())))
            for (key, request), answer in zip(missing.items(), answers, strict=True):
                computed[key] = answer
                await self.set(request, answer)
        return [
            {
                **self.copied(computed[self.key(request)] if answer is None else answer),
                "index": index,
            }
            for index, (request, answer) in enumerate(zip(requests, found, strict=True))
        ]

    def in_order(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        return sorted(answers, key=lambda answer: answer["index"])

    async def clear(self) -> None:
        page: list[bytes] = []
        async for key in self.redis.scan_iter(match=self.pattern(), count=100):
            page.append(key)
        if page:
            await self.redis.unlink(*page)

    def pattern(self) -> str:
        name = self.name()
        for mark in "\\*?[]":
            name = name.replace(mark, f"\\{mark}")
        return f"{name}/*"

    async def counters(self) -> dict[str, int]:
        counted = await self.redis.hgetall(f"{self.name()}/counters")
        return {what: int(counted.get(what.encode(), 0)) for what in ("hits", "misses")}


# Sound in another way


class InMemory(SmallResponseCache):
    """A dictionary of this instance, time by ``spec.clock``; the oldest entries are evicted."""

    capabilities = frozenset(
        {
            "ttl",
            "capacity",
            "compute",
            "single flight",
            "batch",
            "policy",
            "clear",
            "counters",
            "values",
            "copies",
        }
    )

    def connect(self) -> None:
        self.held: dict[str, tuple[float, Any]] = {}
        self.counted = {"hits": 0, "misses": 0}

    async def close(self) -> None:
        pass

    def encode(self, answer: Any) -> Any:
        return copy.deepcopy(answer)

    def decode(self, value: Any) -> Any:
        return copy.deepcopy(value)

    async def fetch(self, key: str) -> Any:
        await asyncio.sleep(0)
        ends, value = self.held.get(key, (0.0, None))
        return value if self.spec.clock() < ends else None

    async def store(self, key: str, value: Any) -> None:
        ttl = float("inf") if self.spec.ttl is None else self.spec.ttl
        self.held.pop(key, None)
        self.held[key] = (self.spec.clock() + ttl, value)
        if self.spec.capacity is not None and len(self.held) > self.spec.capacity:
            del self.held[next(iter(self.held))]

    async def count(self, what: str) -> None:
        self.counted[what] += 1

    async def clear(self) -> None:
        self.held.clear()

    async def counters(self) -> dict[str, int]:
        return self.counted


class InSqlite(SmallResponseCache):
    """A file of SQLite, values pickled: it is the user's own."""

    capabilities = frozenset(
        {
            "shared",
            "processes",
            "ttl",
            "compute",
            "single flight",
            "batch",
            "policy",
            "clear",
            "values",
            "copies",
        }
    )

    def connect(self) -> None:
        path = self.spec.directory / "answers"
        self.file = sqlite3.connect(path, timeout=30.0, isolation_level=None)  # a busy machine
        self.file.execute("create table if not exists answers (key primary key, ends, value)")

    async def close(self) -> None:
        self.file.close()

    def encode(self, answer: Any) -> bytes:
        return pickle.dumps(answer)

    def decode(self, value: bytes) -> Any:
        return pickle.loads(value)

    async def fetch(self, key: str) -> Any:
        wanted = "select value from answers where key = ? and (ends is null or ends > ?)"
        row = self.file.execute(wanted, (key, self.spec.clock())).fetchone()
        return row and row[0]

    async def store(self, key: str, value: bytes) -> None:
        ends = None if self.spec.ttl is None else self.spec.clock() + self.spec.ttl
        self.file.execute("replace into answers values (?, ?, ?)", (key, ends, value))

    async def count(self, what: str) -> None:
        pass

    async def clear(self) -> None:
        self.file.execute("delete from answers")


class Expiring(SmallResponseCache):
    """Redis hashes with the answer in a field; no computing, no policy."""

    capabilities = frozenset({"redis", "shared", "processes", "ttl", "clear", "copies"})

    def may_keep(self, request: Request, answer: Answer) -> bool:
        return True

    async def fetch(self, key: str) -> bytes | None:
        value = await self.redis.hget(key, "answer")  # type: ignore[misc]  # typed as either kind
        assert value is None or isinstance(value, bytes)
        return value

    async def store(self, key: str, value: bytes) -> None:
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.delete(key)
            pipe.hset(key, mapping={"answer": value})
            if self.spec.ttl is not None:
                pipe.pexpire(key, round(self.spec.ttl * 1000))
            await pipe.execute()

    async def count(self, what: str) -> None:
        pass


# Faults: keys


class PromptAlone(SmallResponseCache):
    """C01: no model in the key (EleutherAI/lm-evaluation-harness#4063)."""

    def content(self, request: Request) -> dict[str, Any]:
        return {name: v for name, v in super().content(request).items() if name != "model"}


class FieldsThatAreListed(SmallResponseCache):
    """C02: a list of fields for the key, without seed and logit_bias (BerriAI/litellm#894)."""

    listed = (
        *(
            "model",
            "messages",
            "temperature",
            "top_p",
            "max_tokens",
            "stop",
            "tools",
            "tool_choice",
        ),
        *("response_format", "tenant", "adapter"),
    )

    def content(self, request: Request) -> dict[str, Any]:
        return {name: request.get(name) for name in self.listed}


class NoFormatOfTheAnswer(SmallResponseCache):
    """C02: response_format is no part of the key."""

    def content(self, request: Request) -> dict[str, Any]:
        return {n: v for n, v in super().content(request).items() if n != "response_format"}


class LastMessageAlone(SmallResponseCache):
    """C21, C33: system prompt and history are no part of the key
    (vllm-project/semantic-router#3423, huggingface/lighteval#994)."""

    def content(self, request: Request) -> dict[str, Any]:
        return {**super().content(request), "messages": request["messages"][-1]}


class RolesLeftOut(SmallResponseCache):
    """Not listed: the texts of the messages, whoever said them."""

    def content(self, request: Request) -> dict[str, Any]:
        texts = [message.get("content") for message in request["messages"]]
        calls = [message.get("tool_calls") for message in request["messages"]]
        return {**super().content(request), "messages": [texts, calls]}


class TextOfMessages(SmallResponseCache):
    """Not listed: messages joined to one text, as a prompt would be."""

    def content(self, request: Request) -> dict[str, Any]:
        lines = [f"{message['role']}: {message.get('content')}" for message in request["messages"]]
        others = [sorted(message.items()) for message in request["messages"] if len(message) > 2]
        return {**super().content(request), "messages": ["\n".join(lines), others]}


class CaseFolded(SmallResponseCache):
    """Not listed: text in lower case hits more often."""

    def text(self, content: Any) -> str:
        return super().text(content).lower()


class Stripped(SmallResponseCache):
    """Not listed: white space is taken for nothing."""

    def text(self, content: Any) -> str:
        return " ".join(super().text(content).split())


class BeginningHashed(SmallResponseCache):
    """Not listed: the first 4096 characters are enough."""

    def digest(self, text: str) -> str:
        return super().digest(text[:4096])


class FalsyLeftOut(SmallResponseCache):
    """Not listed: seed 0 is no seed, temperature 0 none."""

    def content(self, request: Request) -> dict[str, Any]:
        return {name: value for name, value in super().content(request).items() if value}


class NamesOfTools(SmallResponseCache):
    """Not listed: tools by their names, whatever their parameters."""

    def content(self, request: Request) -> dict[str, Any]:
        content = super().content(request)
        names = [tool["function"]["name"] for tool in content.get("tools", [])]
        return {**content, "tools": names}


class ValuesJoined(SmallResponseCache):
    """Not listed: values joined to one string, without their names."""

    def text(self, content: Any) -> str:
        first = [str(content.pop(name, "")) for name in ("model", "tenant", "adapter")]
        return "|".join([*first, super().text(content)])


class NamesAndValuesJoined(SmallResponseCache):
    """Not listed: name: value, name: value, in one text (litellm's way)."""

    def text(self, content: Any) -> str:
        return "".join(f"{name}: {content[name]}" for name in sorted(content))


class RoomMadeFirst(InMemory):
    """Not listed: the oldest goes though its place is not needed (LangChain's way)."""

    async def store(self, key: str, value: Any) -> None:
        if self.spec.capacity is not None and len(self.held) == self.spec.capacity:
            del self.held[next(iter(self.held))]
        self.held[key] = (float("inf"), value)


class TenantLeftOut(SmallResponseCache):
    """C19: one tenant gets another's answer (BerriAI/litellm#26992)."""

    def content(self, request: Request) -> dict[str, Any]:
        return {name: v for name, v in super().content(request).items() if name != "tenant"}


class TenantOrAdapter(SmallResponseCache):
    """Not listed: one scope for both, whichever is given."""

    def content(self, request: Request) -> dict[str, Any]:
        content = super().content(request)
        scope = [content.pop("tenant", None), content.pop("adapter", None)]
        return {**content, "scope": "/".join(word for word in scope if word)}


class HashOfPython(SmallResponseCache):
    """Not listed: ``hash`` of a string is another in each process."""

    def digest(self, text: str) -> str:
        return str(hash(text))


class InsertionOrder(SmallResponseCache):
    """C02: keys of mappings in the order in which they were filled."""

    def text(self, content: Any) -> str:
        return json.dumps(content)


class WholeCallHashed(SmallResponseCache):
    """C02: timeout and user are part of the key; it seldom hits."""

    def content(self, request: Request) -> dict[str, Any]:
        return dict(request)


class SaltOfTheInstance(SmallResponseCache):
    """Not listed: keys are salted anew by each instance."""

    def key(self, request: Request) -> str:
        return f"{super().key(request)}{id(self)}"


class RequestIsTheKey(InMemory):
    """Not listed: requests are kept as they came, and change with their conversations."""

    def connect(self) -> None:
        super().connect()
        self.pairs: list[tuple[Request, Answer]] = []

    async def set(self, request: Request, answer: Answer) -> None:
        self.pairs.append((request, copy.deepcopy(answer)))

    async def get(self, request: Request) -> Any:
        wanted = self.content(request)
        found = [answer for kept, answer in self.pairs if self.content(kept) == wanted]
        return copy.deepcopy(found[-1]) if found else None


class NoNamespace(SmallResponseCache):
    """Not listed: all applications on a server share their entries (upstash/semantic-cache#5)."""

    def name(self) -> str:
        return self.spec.namespace[:16]  # who wrote them is told, and which application is not


class NeverHits(SmallResponseCache):
    """C20: safe and useless; the key has the time in it."""

    asked = 0

    def text(self, content: Any) -> str:
        NeverHits.asked += 1
        return super().text(content) + str(NeverHits.asked)


# Faults: values


class WrittenAndNotRead(SmallResponseCache):
    """C13: the reader asks for a field of another name (FireFistisDead/pdf-qa-bot#470)."""

    def decode(self, value: bytes) -> Any:
        return json.loads(value).get("response")


class FalsyIsAMiss(SmallResponseCache):
    """Not listed: an answer without content is not found again."""

    def readable(self, value: bytes) -> Any:
        found = super().readable(value)
        return found if found and found["content"] else None


class AsciiAlone(SmallResponseCache):
    """C13: what does not fit is left out."""

    def encode(self, answer: Any) -> bytes:
        text = json.dumps({"format": 1, "answer": answer}, ensure_ascii=False)
        return text.encode("ascii", "ignore")


class FloatsForAll(SmallResponseCache):
    """Not listed: integers come back as floats."""

    def decode(self, value: bytes) -> Any:
        return json.loads(value, parse_int=float)["answer"]


class TextAsJson(SmallResponseCache):
    """C13: content that is JSON comes back as what it says."""

    def readable(self, value: bytes) -> Any:
        found = super().readable(value)
        try:
            return found and {**found, "content": json.loads(found["content"])}
        except (TypeError, ValueError):
            return found


class DefaultOfStr(InSqlite):
    """C13: ``json.dumps(default=str)`` changes what it does not know (stanfordnlp/dspy#10373)."""

    def encode(self, answer: Any) -> bytes:
        return json.dumps(answer, default=str).encode()

    def decode(self, value: bytes) -> Any:
        return json.loads(value)


class NotOnTopOfAnother(SmallResponseCache):
    """Not listed: written only where nothing is."""

    async def store(self, key: str, value: bytes) -> None:
        await self.redis.set(key, value, px=self.milliseconds(), nx=True)


class OneObject(InMemory):
    """Not listed: the answer that is kept is the caller's own."""

    def encode(self, answer: Any) -> Any:
        return answer

    def decode(self, value: Any) -> Any:
        return value


class ShallowCopy(InMemory):
    """Not listed: a copy of the mapping, not of what is in it."""

    def encode(self, answer: Any) -> Any:
        return dict(answer)

    def decode(self, value: Any) -> Any:
        return dict(value)


class CopiedOnTheWayInAlone(InMemory):
    """Not listed: a hit gives the kept object away."""

    def decode(self, value: Any) -> Any:
        return value


# Faults: time and room


class ExpiryAnewWithEachHit(SmallResponseCache):
    """C22: EXPIRE in get (redis/redis-vl-python#603)."""

    async def fetch(self, key: str) -> bytes | None:
        value = await super().fetch(key)
        if self.spec.ttl is not None:
            await self.redis.pexpire(key, round(self.spec.ttl * 1000))
        return value


class NoExpiry(SmallResponseCache):
    """Not listed: the time to live is told to nobody."""

    def milliseconds(self) -> int | None:
        return None


class MillisecondsForSeconds(SmallResponseCache):
    """Not listed: a thousandth of the time."""

    def milliseconds(self) -> int | None:
        return None if self.spec.ttl is None else round(self.spec.ttl)


class ExpiryOfTheFirst(SmallResponseCache):
    """Not listed: an answer written anew ends with the old one (KEEPTTL)."""

    async def store(self, key: str, value: bytes) -> None:
        if await self.redis.exists(key):
            await self.redis.set(key, value, keepttl=True)
        else:
            await super().store(key, value)


class OneExpiryForAll(SmallResponseCache):
    """Not listed: all answers in one hash, whose time to live begins with each of them."""

    async def fetch(self, key: str) -> bytes | None:
        return await self.redis.hget(f"{self.name()}/all", key)  # type: ignore[misc,return-value]

    async def store(self, key: str, value: bytes) -> None:
        await self.redis.hset(f"{self.name()}/all", key, value)  # type: ignore[misc,arg-type]
        if self.spec.ttl is not None:
            await self.redis.pexpire(f"{self.name()}/all", round(self.spec.ttl * 1000))


class ADefaultNobodyCanTurnOff(SmallResponseCache):
    """C37: no time to live is a day."""

    def milliseconds(self) -> int | None:
        return super().milliseconds() or 86400 * 1000


class TwoLayers(SmallResponseCache):
    """Sound: what was read from Redis stays in memory for the rest of its time."""

    def connect(self) -> None:
        super().connect()
        self.near: dict[str, tuple[float, bytes]] = {}

    async def fetch(self, key: str) -> bytes | None:
        ends, value = self.near.get(key, (0.0, b""))
        if self.spec.clock() < ends:
            return value
        async with self.redis.pipeline() as pipe:
            pipe.get(key)
            pipe.pttl(key)
            value, left = await pipe.execute()
        if value is not None and self.trusts_memory():
            left = left if left >= 0 else 10**9  # it has no end
            self.near[key] = (self.spec.clock() + self.rest(left), value)
        return value

    def trusts_memory(self) -> bool:
        # Another instance may write anew: then what is near is no longer what is kept.
        return False

    def rest(self, milliseconds: int) -> float:
        return milliseconds / 1000


class MemoryLivesAnew(TwoLayers):
    """C23: a whole time to live in the near layer (AurumAS/DoubleCache#19)."""

    capabilities = frozenset({"redis", "shared", "ttl"})

    def trusts_memory(self) -> bool:
        return True

    def rest(self, milliseconds: int) -> float:
        return self.spec.ttl or float("inf")


class OneTooMany(InMemory):
    """Not listed: evicted when there is one more than there is room for."""

    async def store(self, key: str, value: Any) -> None:
        self.held.pop(key, None)
        if self.spec.capacity is not None and len(self.held) > self.spec.capacity:
            del self.held[next(iter(self.held))]
        self.held[key] = (float("inf"), value)


class NewestEvicted(InMemory):
    """Not listed: what is kept last goes first."""

    async def store(self, key: str, value: Any) -> None:
        if self.spec.capacity is None or len(self.held) < self.spec.capacity:
            await super().store(key, value)


class EvictedFromOneStore(InMemory):
    """C36: the index still has it, its answer is gone (zilliztech/GPTCache#440)."""

    async def store(self, key: str, value: Any) -> None:
        self.held[key] = (float("inf"), value)
        if self.spec.capacity is not None:
            for each in [*self.held][: -self.spec.capacity]:
                self.held[each] = (float("inf"), {})


class RoomForEachTime(InMemory):
    """Not listed: an answer written anew takes the place of another."""

    def connect(self) -> None:
        super().connect()
        self.ages: list[str] = []

    async def store(self, key: str, value: Any) -> None:
        self.held[key] = (float("inf"), value)
        self.ages.append(key)
        if self.spec.capacity is not None and len(self.ages) > self.spec.capacity:
            self.held.pop(self.ages.pop(0), None)


class FullAtTheStart(InSqlite):
    """C35: what is there is loaded before there is anything that evicts
    (zilliztech/GPTCache#489)."""

    capabilities = frozenset({"shared", "capacity"})

    def connect(self) -> None:
        super().connect()
        held = self.file.execute("select key from answers order by rowid").fetchall()
        if self.spec.capacity is not None and len(held) > self.spec.capacity:
            raise RuntimeError("'NoneType' object has no attribute 'delete'")


# Faults: computing


class NoFlight(SmallResponseCache):
    """C29: the lock is about the look-up alone (starpig1129/ai-discord-bot-PigPig#145)."""

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        found = await self.get(request)
        if found is None:
            found = await compute()
            await self.set(request, found)
        return found


class OneLock(SmallResponseCache):
    """Not listed: one lock about everything; others wait."""

    def connect(self) -> None:
        super().connect()
        self.lock = asyncio.Lock()

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        if not self.may_share(request):
            return await compute()
        async with self.lock:
            found = await self.get(request)
            if found is None:
                found = await compute()
                await self.set(request, found)
            return found


class FollowersWaitForSuccess(SmallResponseCache):
    """Not listed: the flight that failed never lands."""

    async def fly(self, request: Request, key: str, compute: Any) -> Any:
        answer = await self.get(request) or await self.computed(request, compute)
        self.land(key)
        return answer


class NoShield(SmallResponseCache):
    """Not listed: who gives up takes the others along."""

    async def wait(self, flight: asyncio.Task[Any]) -> Any:
        return await flight


class OneAnswerForAll(SmallResponseCache):
    """Not listed: those who waited share one object."""

    def copied(self, answer: Any) -> Any:
        return answer


class ErrorsKept(SmallResponseCache):
    """Not listed: an error becomes an answer."""

    async def fly(self, request: Request, key: str, compute: Any) -> Any:
        async def instead() -> Any:
            try:
                return await compute()
            except Exception as error:
                usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
                return {"content": str(error), "finish_reason": "stop", "usage": usage}

        return await super().fly(request, key, instead)


class ComputedAndNotKept(SmallResponseCache):
    """C20: what is computed is not written."""

    async def computed(self, request: Request, compute: Any) -> Any:
        return await compute()


class OmittedIsZero(SmallResponseCache):
    """C04: no temperature is taken for 0 (Continuum-AI-Corp/OrcaRouter-Lite#84)."""

    def temperature(self, request: Request) -> float:
        return request.get("temperature", 0.0) or 0.0


class ZeroIsOne(SmallResponseCache):
    """Not listed: temperature 0 is falsy; safe and useless."""

    def temperature(self, request: Request) -> float:
        return request.get("temperature") or 1.0


class SampledKept(SmallResponseCache):
    """C04: no look at the temperature (microsoft/genaiscript#69)."""

    def may_share(self, request: Request) -> bool:
        return True


class SampledShared(SmallResponseCache):
    """Not listed: sampled requests are not kept, and share a flight."""

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        key = self.key(request)
        if key not in self.flights:
            self.flights[key] = asyncio.create_task(self.fly(request, key, compute))
        return self.copied(await self.wait(self.flights[key]))


class CutOffKept(SmallResponseCache):
    """Not listed: an answer that was cut off at the limit of tokens is kept."""

    def whole(self, answer: Answer) -> bool:
        return bool(answer["content"] or answer.get("tool_calls"))


class EmptyKept(SmallResponseCache):
    """Not listed: an answer with nothing in it is kept."""

    def whole(self, answer: Answer) -> bool:
        return bool(answer["finish_reason"] == "stop")


class CallsTakenForNothing(SmallResponseCache):
    """Not listed: only text counts, so that calls of tools are computed each time."""

    def whole(self, answer: Answer) -> bool:
        return answer["finish_reason"] == "stop" and bool(answer["content"])


# Faults: batches


class PlaceAmongAllTaken(SmallResponseCache):
    """C09: results are stored under prompts[i] for missing[i] (langchain-ai/langchain#551)."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        answers = await super().get_or_compute_batch(requests, _NotKept(self, compute))
        computed = [a for a in answers if self.key(requests[a["index"]]) in self.new]
        for request, answer in zip(requests, computed, strict=False):
            await self.set(request, answer)
        return answers

    new: Any = ()


class _NotKept:
    """Remembers which requests a batch computes."""

    def __init__(self, cache: Any, compute: Any) -> None:
        self.cache, self.compute = cache, compute

    async def __call__(self, requests: Sequence[Request]) -> Any:
        self.cache.new = {self.cache.key(request) for request in requests}
        return await self.compute(requests)


class MissesAfterHits(SmallResponseCache):
    """C10: hits first, then what was computed (BerriAI/litellm#29284)."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        known = [await self.get(request) is not None for request in requests]
        answers = await super().get_or_compute_batch(requests, compute)
        return sorted(answers, key=lambda answer: not known[answer["index"]])


class IndexOfTheService(SmallResponseCache):
    """C10: the place that the service gave (BerriAI/litellm#41799)."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        places: dict[str, int] = {}

        async def noted(missing: Sequence[Request]) -> Any:
            places.update({self.key(request): i for i, request in enumerate(missing)})
            return await compute(missing)

        answers = await super().get_or_compute_batch(requests, noted)
        return [
            {**answer, "index": places.get(self.key(request), answer["index"])}
            for request, answer in zip(requests, answers, strict=True)
        ]


class AsTheyCome(SmallResponseCache):
    """C10: answers paired with requests in the order in which the service sends them."""

    def in_order(self, answers: Sequence[Answer]) -> Sequence[Answer]:
        return answers


class CalledWithNothing(SmallResponseCache):
    """C11: a call with no request (langchain-ai/langchain#777)."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        found = [await self.get(request) for request in requests]
        if None not in found:
            await compute([])
        return await super().get_or_compute_batch(requests, compute)


class AllOrNothing(SmallResponseCache):
    """Not listed: one miss, and the whole batch is computed."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        found = [await self.get(request) for request in requests]
        if None not in found:
            return [{**answer, "index": i} for i, answer in enumerate(found)]
        answers = self.in_order(await compute(requests))
        for request, answer in zip(requests, answers, strict=True):
            await self.set(request, answer)
        return answers


class KeptBeforeItIsComputed(SmallResponseCache):
    """Not listed: each entry is there, with an answer to come, before the model is called."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        async def kept_first(missing: Sequence[Request]) -> Any:
            to_come = {"content": "…", "finish_reason": "stop"}
            for request in missing:
                await self.set(request, to_come)
            return await compute(missing)

        return await super().get_or_compute_batch(requests, kept_first)


class OncePerPlace(SmallResponseCache):
    """C10: a request that stands twice in a batch gets one answer."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        unique = {self.key(request): request for request in requests}
        return await super().get_or_compute_batch([*unique.values()], compute)


# Faults: the store


class KeysOfAll(SmallResponseCache):
    """C26: KEYS on a shared server (volcano-sh/kthena#1430)."""

    async def clear(self) -> None:
        for key in await self.redis.keys(self.pattern()):
            await self.redis.delete(key)


class OnePage(SmallResponseCache):
    """C27: one step of SCAN (rv-kip/express-redis-cache#97)."""

    async def clear(self) -> None:
        _, page = await self.redis.scan(0, match=self.pattern(), count=100)
        if page:
            await self.redis.unlink(*page)


class NeighboursCleared(SmallResponseCache):
    """C27: the pattern has no delimiter; what begins alike goes too."""

    def pattern(self) -> str:
        return super().pattern()[:-2] + "*"


class PatternNotEscaped(SmallResponseCache):
    """Not listed: a namespace with [ and * in it matches its neighbours and not itself."""

    def pattern(self) -> str:
        return f"{self.name()}/*"


class Scanned(SmallResponseCache):
    """C26: a look-up goes through all keys."""

    async def fetch(self, key: str) -> bytes | None:
        async for each in self.redis.scan_iter(match=f"{self.name()}/*"):
            if each.decode() == key:
                return await super().fetch(key)
        return None


class ACommandForEachEntry(SmallResponseCache):
    """C26: a list of keys, fetched one by one."""

    async def store(self, key: str, value: bytes) -> None:
        await super().store(key, value)
        await self.redis.rpush(f"{self.name()}/list", key)  # type: ignore[misc]

    async def fetch(self, key: str) -> bytes | None:
        found = None
        for each in await self.redis.lrange(f"{self.name()}/list", 0, -1):  # type: ignore[misc]
            value = await self.redis.get(each)
            found = value if each.decode() == key else found
        return found


class BareHash(SmallResponseCache):
    """Not listed: nothing in the key says whose it is."""

    def key(self, request: Request) -> str:
        return self.digest(self.name() + self.text(self.content(request)))


class ParserErrors(SmallResponseCache):
    """Not listed: an entry that cannot be read is the caller's error."""

    def readable(self, value: bytes) -> Any:
        return self.decode(value)


class AnyJson(SmallResponseCache):
    """Not listed: whatever is JSON is taken for an answer."""

    def encode(self, answer: Any) -> bytes:
        return json.dumps(answer).encode()

    def decode(self, value: bytes) -> Any:
        return json.loads(value)


class Unpickled(SmallResponseCache):
    """Not listed: code in an entry is run."""

    def encode(self, answer: Any) -> bytes:
        return pickle.dumps({"format": 1, "answer": answer})

    def readable(self, value: bytes) -> Any:
        try:
            held = pickle.loads(value)
            return held["answer"] if held["format"] == 1 else None
        except Exception:
            return None


class StoreErrorsRaised(SmallResponseCache):
    """Not listed: the server is down, and so is the service."""

    def failed(self, error: Exception) -> None:
        raise error


class WritingRaises(SmallResponseCache):
    """Not listed: reading is guarded, writing is not."""

    async def keep(self, key: str, answer: Answer) -> None:
        await self.store(key, self.encode(answer))


class CountingRaises(SmallResponseCache):
    """Not listed: a hit that cannot be counted is an error."""

    async def look(self, key: str) -> Any:
        try:
            value = await self.fetch(key)
        except FAILURES as error:
            self.failed(error)
            return None
        answer = None if value is None else self.readable(value)
        await self.count("misses" if answer is None else "hits")
        return answer


class NoTimeout(SmallResponseCache):
    """Not listed: a server that hangs hangs the service."""

    def timeout(self) -> float | None:
        return None


class LateReplies(SmallResponseCache):
    """Not listed: what came too late for one question answers the next (redis/redis-py#2624)."""

    late: asyncio.Future[Any] | None = None

    def timeout(self) -> float | None:
        return None

    async def fetch(self, key: str) -> bytes | None:
        reply = self.late or asyncio.ensure_future(super().fetch(key))
        self.late = None
        done, _ = await asyncio.wait([reply], timeout=self.spec.redis_timeout)
        if not done:
            self.late = reply
            raise TimeoutError
        return reply.result()


class NotWarned(SmallResponseCache):
    """Not listed: nobody is told that the store fails."""

    def failed(self, error: Exception) -> None:
        pass


class DownForGood(SmallResponseCache):
    """Not listed: after one failure the store is never asked again."""

    down = False

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self.down = True

    async def fetch(self, key: str) -> bytes | None:
        return None if self.down else await super().fetch(key)


class ConnectedAtTheStart(SmallResponseCache):
    """Not listed: a service cannot start without its cache."""

    def __init__(self, spec: CacheSpec) -> None:
        super().__init__(spec)
        import redis as synchronous

        client = synchronous.Redis.from_url(spec.redis_url or "")
        client.ping()
        client.close()


class CounterRaisedHere(SmallResponseCache):
    """Not listed: a counter is read, raised and written."""

    async def count(self, what: str) -> None:
        name = f"{self.name()}/counters"
        counted = await self.redis.hget(name, what)  # type: ignore[misc]
        await self.redis.hset(name, what, str(int(counted or 0) + 1))  # type: ignore[misc]


class HitsThatFailCounted(SmallResponseCache):
    """Not listed: every look-up is a hit."""

    async def count(self, what: str) -> None:
        await super().count("hits")


@dataclass(frozen=True)
class CacheMutant:
    """``by``: the property's assertion, or the error with which the fault comes to the caller."""

    fault: type[SmallResponseCache]
    broken: str
    by: type[Exception] = AssertionError


FIELD = "test_every_field_is_told_apart"
PAIRS = "test_any_two_requests_are_told_apart"
FOUND = "test_a_kept_answer_is_found"
EQUAL = "test_answers_come_back_equal"
CHANGED = "test_changing_an_answer_does_not_change_the_kept_one"
LONGER = "test_hits_do_not_make_it_live_longer"
ROOM = "test_no_more_is_kept_than_there_is_room_for"
ONCE = "test_equal_requests_at_once_compute_once"
LEADER = "test_a_failing_leader_leaves_nobody_waiting"
SAMPLED = "test_sampled_answers_are_kept_only_on_request"
WHOLE = "test_answers_that_are_no_answers_are_not_kept"
BATCH = "test_any_part_of_a_batch_may_be_kept"
CLEARED = "test_clearing_forgets_all_of_this_namespace_and_no_other"
SPARED = "test_clearing_leaves_nothing_and_spares_what_others_put_there"
COST = "test_a_look_up_costs_the_same_however_much_is_kept"
DAMAGED = "test_damaged_entries_are_misses"
FAILS = "test_a_store_that_fails_is_a_miss"
DOWN = "test_a_store_that_is_down_at_the_start_is_a_miss"
SLOW = "test_a_slow_store_is_waited_for_or_done_without"
TOO_FULL = "test_a_store_that_is_too_full_can_be_opened"
COUNTS = "test_counters_lose_nothing"
MUTANTS = [
    CacheMutant(PromptAlone, FIELD),
    CacheMutant(FieldsThatAreListed, FIELD),
    CacheMutant(FieldsThatAreListed, PAIRS),
    CacheMutant(NoFormatOfTheAnswer, FIELD),
    CacheMutant(LastMessageAlone, FIELD),
    CacheMutant(RolesLeftOut, FIELD),
    CacheMutant(TextOfMessages, "test_values_that_look_like_fields_are_told_apart"),
    CacheMutant(CaseFolded, FIELD),
    CacheMutant(Stripped, FIELD),
    CacheMutant(BeginningHashed, FIELD),
    CacheMutant(FalsyLeftOut, FIELD),
    CacheMutant(NamesOfTools, FIELD),
    CacheMutant(ValuesJoined, "test_delimiters_in_values_are_told_apart"),
    CacheMutant(NamesAndValuesJoined, "test_values_that_look_like_fields_are_told_apart"),
    CacheMutant(TenantLeftOut, FIELD),
    CacheMutant(TenantOrAdapter, FIELD),
    CacheMutant(HashOfPython, "test_another_process_finds_it"),
    CacheMutant(InsertionOrder, "test_the_order_of_keys_makes_no_difference"),
    CacheMutant(WholeCallHashed, "test_what_changes_no_answer_makes_no_difference"),
    CacheMutant(NoNamespace, "test_namespaces_do_not_meet"),
    CacheMutant(NeverHits, FOUND),
    CacheMutant(WrittenAndNotRead, FOUND),
    CacheMutant(FalsyIsAMiss, EQUAL),
    CacheMutant(AsciiAlone, EQUAL),
    CacheMutant(FloatsForAll, EQUAL),
    CacheMutant(TextAsJson, EQUAL),
    CacheMutant(DefaultOfStr, "test_python_values_come_back_equal"),
    CacheMutant(NotOnTopOfAnother, "test_a_later_answer_replaces_the_earlier"),
    CacheMutant(NotOnTopOfAnother, "test_any_sequence_agrees_with_a_dictionary"),
    CacheMutant(OneObject, CHANGED),
    CacheMutant(ShallowCopy, CHANGED),
    CacheMutant(CopiedOnTheWayInAlone, CHANGED),
    CacheMutant(ExpiryAnewWithEachHit, LONGER),
    CacheMutant(NoExpiry, "test_an_entry_ends_on_time"),
    CacheMutant(MillisecondsForSeconds, "test_an_entry_ends_on_time"),
    CacheMutant(ExpiryOfTheFirst, "test_an_answer_kept_anew_lives_anew"),
    CacheMutant(OneExpiryForAll, "test_each_entry_has_its_own_time"),
    CacheMutant(ADefaultNobodyCanTurnOff, "test_without_a_time_to_live_nothing_ends"),
    CacheMutant(MemoryLivesAnew, "test_other_instances_keep_to_its_end"),
    CacheMutant(OneTooMany, ROOM),
    CacheMutant(NewestEvicted, ROOM),
    CacheMutant(EvictedFromOneStore, ROOM),
    CacheMutant(RoomForEachTime, "test_keeping_an_answer_anew_takes_no_room"),
    CacheMutant(RoomMadeFirst, "test_keeping_an_answer_anew_takes_no_room"),
    CacheMutant(FullAtTheStart, TOO_FULL, RuntimeError),
    CacheMutant(NoFlight, ONCE),
    CacheMutant(OneLock, "test_other_requests_do_not_wait"),
    CacheMutant(FollowersWaitForSuccess, LEADER),
    CacheMutant(NoShield, "test_a_cancelled_request_takes_no_other_with_it"),
    CacheMutant(OneAnswerForAll, ONCE),
    CacheMutant(ErrorsKept, "test_what_fails_is_raised_and_not_kept"),
    CacheMutant(ErrorsKept, LEADER),
    CacheMutant(ComputedAndNotKept, "test_what_is_kept_is_not_computed"),
    CacheMutant(OmittedIsZero, SAMPLED),
    CacheMutant(ZeroIsOne, SAMPLED),
    CacheMutant(SampledKept, SAMPLED),
    CacheMutant(SampledShared, "test_sampled_answers_are_computed_each_time"),
    CacheMutant(CutOffKept, WHOLE),
    CacheMutant(EmptyKept, WHOLE),
    CacheMutant(CallsTakenForNothing, EQUAL),
    CacheMutant(PlaceAmongAllTaken, BATCH),
    CacheMutant(MissesAfterHits, BATCH),
    CacheMutant(IndexOfTheService, BATCH),
    CacheMutant(AsTheyCome, BATCH),
    CacheMutant(CalledWithNothing, BATCH),
    CacheMutant(AllOrNothing, BATCH),
    CacheMutant(OncePerPlace, "test_a_batch_may_ask_the_same_twice"),
    CacheMutant(KeysOfAll, SPARED),
    CacheMutant(OnePage, CLEARED),
    CacheMutant(NeighboursCleared, CLEARED),
    CacheMutant(NeighboursCleared, SPARED),
    CacheMutant(PatternNotEscaped, CLEARED),
    CacheMutant(Scanned, COST),
    CacheMutant(ACommandForEachEntry, COST),
    CacheMutant(BareHash, "test_keys_carry_the_namespace"),
    CacheMutant(ParserErrors, DAMAGED, ValueError),
    CacheMutant(AnyJson, DAMAGED),
    CacheMutant(Unpickled, DAMAGED),
    CacheMutant(StoreErrorsRaised, FAILS, RedisError),
    CacheMutant(WritingRaises, FAILS, RedisError),
    CacheMutant(CountingRaises, FAILS, RedisError),
    CacheMutant(NoTimeout, FAILS),
    CacheMutant(NotWarned, "test_a_store_that_fails_is_told_of"),
    CacheMutant(DownForGood, FAILS),
    CacheMutant(DownForGood, SLOW),
    CacheMutant(LateReplies, SLOW),
    CacheMutant(KeptBeforeItIsComputed, "test_a_batch_that_fails_keeps_nothing"),
    CacheMutant(SaltOfTheInstance, "test_another_instance_finds_it"),
    CacheMutant(RequestIsTheKey, "test_changing_a_request_does_not_change_what_is_kept"),
    CacheMutant(ConnectedAtTheStart, DOWN, RedisError),
    CacheMutant(CounterRaisedHere, COUNTS),
    CacheMutant(HitsThatFailCounted, COUNTS),
]
SOUND: list[Any] = [SmallResponseCache, TwoLayers, InMemory, InSqlite, Expiring]
