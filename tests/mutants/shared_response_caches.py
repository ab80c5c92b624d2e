"""Response caches of several instances and ways: sound ones, and the same with faults."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from infopt_suites.caching import Answer, Request
from response_caches import FAILURES, CacheMutant, InMemory, InSqlite, SmallResponseCache, TwoLayers

# Sound in another way


class TimedCalls(SmallResponseCache):
    """``set`` takes a time to live of its own; a circuit breaker spares a store that is down."""

    capabilities = SmallResponseCache.capabilities | {"ttl per call"}
    recovers_within = 5.0
    own: float | None = None
    closed_until = 0.0

    async def set(self, request: Request, answer: Answer, *, ttl: float | None = None) -> None:
        if self.may_keep(request, answer):
            self.own = ttl
            await self.keep(self.key(request), answer)

    def milliseconds(self) -> int | None:
        own, self.own = self.own, None
        return super().milliseconds() if own is None else round(own * 1000)

    async def fetch(self, key: str) -> bytes | None:
        self.require_closed()
        return await super().fetch(key)

    async def store(self, key: str, value: bytes) -> None:
        self.require_closed()
        await super().store(key, value)

    def require_closed(self) -> None:
        if self.spec.clock() < self.closed_until:
            raise OSError("the store was down a moment ago")

    def failed(self, error: Exception) -> None:
        super().failed(error)
        self.closed_until = max(self.closed_until, self.spec.clock() + self.breaks_for())

    def breaks_for(self) -> float:
        return 4.0


class WriteThrough(TwoLayers):
    """What was kept or found stays in memory for a second, and nobody tells other instances."""

    staleness_seconds = 1.0

    def trusts_memory(self) -> bool:
        return True

    def rest(self, milliseconds: int) -> float:
        return min(1.0, super().rest(milliseconds))

    async def store(self, key: str, value: bytes) -> None:
        await super().store(key, value)
        left = self.milliseconds()
        self.near[key] = (self.spec.clock() + self.rest(10**9 if left is None else left), value)

    async def clear(self) -> None:
        self.near.clear()
        await super().clear()


class Versioned(SmallResponseCache):
    """Memory is valid for a version, which keeping and clearing change for all instances."""

    def connect(self) -> None:
        super().connect()
        self.near: dict[str, tuple[Any, bytes]] = {}

    async def version(self) -> Any:
        return await self.redis.get(f"{self.name()}v/version")

    async def change(self) -> None:
        await self.redis.set(f"{self.name()}v/version", uuid.uuid4().hex)

    async def fetch(self, key: str) -> bytes | None:
        version = await self.version()
        known, value = self.near.get(key, (None, b""))
        if key in self.near and known == version:
            return value
        found = await super().fetch(key)
        if found is not None and self.spec.ttl is None:
            self.near[key] = (await self.version_of(version), found)
        return found

    async def version_of(self, read_before: Any) -> Any:
        return read_before

    async def store(self, key: str, value: bytes) -> None:
        await super().store(key, value)
        await self.change()

    async def clear(self) -> None:
        await super().clear()
        await self.change()


class LockedInRedis(SmallResponseCache):
    """Instances take a lock of the entry in the store before they compute."""

    capabilities = SmallResponseCache.capabilities | {"shared flight"}

    async def computed(self, request: Request, compute: Any) -> Any:
        lock, key, token = self.lock_of(request), self.key(request), uuid.uuid4().hex
        try:
            while not await self.redis.set(lock, token, nx=True, px=60_000):
                await asyncio.sleep(0.005)
        except FAILURES as error:
            self.failed(error)
            return await super().computed(request, compute)
        try:
            found = self.readable(await self.again(key) or b"")
            return await super().computed(request, compute) if found is None else found
        finally:
            await self.unlock(lock, sys.exc_info()[0] is None)

    async def again(self, key: str) -> bytes | None:
        try:
            return await self.fetch(key)
        except FAILURES as error:
            self.failed(error)
            return None

    def lock_of(self, request: Request) -> str:
        return f"{self.key(request)}/lock"

    async def unlock(self, lock: str, succeeded: bool) -> None:
        try:
            await self.redis.delete(lock)
        except FAILURES as error:
            self.failed(error)


class LockedInSqlite(InSqlite):
    """A row of the file says who computes; ways without an event loop."""

    capabilities = InSqlite.capabilities | {"shared flight", "sync", "sync set"}

    def connect(self) -> None:
        super().connect()
        self.file.execute("pragma busy_timeout = 10000")
        self.file.execute("create table if not exists flights (key primary key)")

    def lookup(self, request: Request) -> Any:
        return asyncio.run(self.on_a_file_of_its_own(lambda cache: cache.get(request)))

    def keep(self, request: Any, answer: Answer) -> Any:  # the suite's; `set` needs none
        return asyncio.run(self.on_a_file_of_its_own(lambda cache: cache.set(request, answer)))

    async def on_a_file_of_its_own(self, work: Any) -> Any:
        cache = type(self)(self.spec)
        try:
            return await work(cache)
        finally:
            await cache.close()

    async def set(self, request: Request, answer: Answer) -> None:
        if self.may_keep(request, answer):
            await self.store(self.key(request), self.encode(answer))

    async def computed(self, request: Request, compute: Any) -> Any:
        key = self.key(request)
        while not self.begins(key):
            await asyncio.sleep(0.002)
        try:
            found = await self.get(request)
            return await super().computed(request, compute) if found is None else found
        finally:
            self.file.execute("delete from flights where key = ?", (key,))

    def begins(self, key: str) -> bool:
        return self.file.execute("insert or ignore into flights values (?)", (key,)).rowcount == 1


# Faults: ways in and out


class BatchesOfTheirOwn(SmallResponseCache):
    """Not listed: the batch's keys are made in another way."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        key = self.key
        try:
            self.key = lambda request: key(request) + "/batch"  # type: ignore[method-assign]
            return await super().get_or_compute_batch(requests, compute)
        finally:
            self.key = key  # type: ignore[method-assign]


class ComputedBeside(SmallResponseCache):
    """Not listed: what is computed goes into a dictionary, what is set into the store."""

    def connect(self) -> None:
        super().connect()
        self.beside: dict[str, Any] = {}

    async def computed(self, request: Request, compute: Any) -> Any:
        key = self.key(request)
        if key not in self.beside:
            self.beside[key] = await compute()
        return self.beside[key]


class SyncLooksElsewhere(LockedInSqlite):
    """Not listed: the way without an event loop has another key."""

    def lookup(self, request: Request) -> Any:
        return super().lookup({**request, "sync": True})


class BatchLivesForEver(SmallResponseCache):
    """Not listed: the batch's entries have no time to live."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        answers = await super().get_or_compute_batch(requests, compute)
        for request in requests:
            await self.redis.persist(self.key(request))
        return answers


class ComputedLivesTwice(SmallResponseCache):
    """Not listed: what is computed lives twice as long."""

    async def computed(self, request: Request, compute: Any) -> Any:
        answer = await super().computed(request, compute)
        if self.spec.ttl is not None:
            await self.redis.pexpire(self.key(request), round(self.spec.ttl * 2000))
        return answer


class ComputingHitsRenew(SmallResponseCache):
    """Not listed: a hit of get_or_compute writes the entry again."""

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        answer = await super().get_or_compute(request, compute)
        await self.set(request, answer)
        return answer


class SyncSetLivesForEver(LockedInSqlite):
    """Not listed: keep has no time to live."""

    def keep(self, request: Request, answer: Answer) -> Any:
        LockedInSqlite(replace(self.spec, ttl=None)).keep(request, answer)


class BatchKeepsAll(SmallResponseCache):
    """Not listed: the policy is not that of the batch."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        may_keep, may_share = self.may_keep, self.may_share
        try:
            self.may_keep = lambda request, answer: True  # type: ignore[method-assign]
            self.may_share = lambda request: True  # type: ignore[method-assign]
            return await super().get_or_compute_batch(requests, compute)
        finally:
            self.may_keep, self.may_share = may_keep, may_share  # type: ignore[method-assign]


class ComputedKeptHoweverItEnds(SmallResponseCache):
    """Not listed: ``set`` looks at the end of an answer, and get_or_compute does not."""

    async def computed(self, request: Request, compute: Any) -> Any:
        answer = await compute()
        await super().set(request, {**answer, "finish_reason": "stop"})
        return answer


class SetKeepsSampled(SmallResponseCache):
    """Not listed: only get_or_compute asks whether the answer was sampled."""

    async def set(self, request: Request, answer: Answer) -> None:
        if self.whole(answer):
            await self.keep(self.key(request), answer)

    async def get(self, request: Request) -> Any:
        return await self.look(self.key(request))


class ComputedNotCopied(InMemory):
    """Not listed: who computed has the kept object in hand."""

    async def computed(self, request: Request, compute: Any) -> Any:
        answer = await compute()
        if self.may_keep(request, answer):
            await self.store(self.key(request), answer)
        return answer

    def copied(self, answer: Any) -> Any:
        return answer


class BatchNotCopied(InMemory):
    """Not listed: batches give the kept objects away."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        answers = await super().get_or_compute_batch(requests, compute)
        for request, answer in zip(requests, answers, strict=True):
            if self.may_keep(request, answer):
                await self.store(self.key(request), answer)
        return answers


class OneObjectForEqualRequests(SmallResponseCache):
    """Not listed: equal requests of a batch share a computed answer's inner parts."""

    def copied(self, answer: Any) -> Any:
        return dict(answer)


class OneObjectOfTheStore(SmallResponseCache):
    """Not listed: a batch decodes each value once."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        answers = await super().get_or_compute_batch(requests, compute)
        by_key = {
            self.key(request): answer for request, answer in zip(requests, answers, strict=True)
        }
        return [
            {**by_key[self.key(request)], "index": index} for index, request in enumerate(requests)
        ]


# Faults: flights


class LookedUpBeforeTheTable(SmallResponseCache):
    """Not listed: a look-up, then the table of flights, and nobody looks again."""

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        found = await self.get(request) if self.may_share(request) else None
        return await super().get_or_compute(request, compute) if found is None else found

    async def fly(self, request: Request, key: str, compute: Any) -> Any:
        try:
            return await self.computed(request, compute)
        finally:
            self.land(key)


class LookedUpBeforeTheTableInMemory(LookedUpBeforeTheTable, InMemory):
    """Not listed: the same in memory, where a lock or a thread is waited for in between."""

    async def fetch(self, key: str) -> Any:
        found = await super().fetch(key)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return found


class LandsBeforeItIsKept(SmallResponseCache):
    """Not listed: the flight is over when the model has answered, and the answer kept later."""

    async def computed(self, request: Request, compute: Any) -> Any:
        answer = await compute()
        self.land(self.key(request))
        await self.set(request, answer)
        return answer


class KeptInTheBackground(InMemory):
    """Not listed: a task keeps the answer when it comes to it."""

    tasks: Any = ()

    async def computed(self, request: Request, compute: Any) -> Any:
        answer = await compute()
        self.tasks = (*self.tasks, asyncio.create_task(self.later(request, answer)))
        return answer

    async def later(self, request: Request, answer: Any) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
        await self.set(request, answer)


class HerdAfterAFailure(SmallResponseCache):
    """Not listed: followers of a flight that failed compute, each for itself."""

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        leads = self.key(request) not in self.flights
        try:
            return await super().get_or_compute(request, compute)
        except Exception:
            if leads:
                raise
            return await self.computed(request, compute)


class HerdAfterTheLeader(SmallResponseCache):
    """Not listed: the flight is its leader's own, and who waited for it waits no longer."""

    def connect(self) -> None:
        super().connect()
        self.ended: dict[str, asyncio.Event] = {}

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        key = self.key(request)
        event = self.ended.get(key)
        if event is not None:
            await event.wait()
            found = await self.get(request)
            return await self.computed(request, compute) if found is None else found
        self.ended[key] = asyncio.Event()
        try:
            found = await self.get(request)
            return await self.computed(request, compute) if found is None else found
        finally:
            self.ended.pop(key).set()


class HerdOnAnotherKey(SmallResponseCache):
    """Not listed: a flight that failed is tried again under a key of each follower."""

    tries = 0

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        try:
            return await super().get_or_compute(request, compute)
        except Exception:
            self.tries += 1
            if self.tries == 1:
                raise
            return await super().get_or_compute({**request, "try": self.tries}, compute)


# Faults: several instances


class OneValueForAll(SmallResponseCache):
    """Not listed: all answers in one value, which is read, extended and written."""

    async def read(self) -> dict[str, str]:
        held: dict[str, str] = json.loads(await self.redis.get(f"{self.name()}/all") or "{}")
        return held

    async def fetch(self, key: str) -> bytes | None:
        value = (await self.read()).get(key)
        return None if value is None else value.encode()

    async def store(self, key: str, value: bytes) -> None:
        held = await self.read() | {key: value.decode()}
        await self.redis.set(f"{self.name()}/all", json.dumps(held))


class OneFileForAll(SmallResponseCache):
    """Not listed: all answers in one file of JSON, which no other process may write meanwhile."""

    capabilities: Any = frozenset({"shared", "processes"})

    def connect(self) -> None:
        self.path = self.spec.directory / "answers.json"

    async def close(self) -> None:
        pass

    def read(self) -> dict[str, str]:
        try:
            held: dict[str, str] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return held

    async def fetch(self, key: str) -> bytes | None:
        value = self.read().get(key)
        return None if value is None else value.encode()

    async def store(self, key: str, value: bytes) -> None:
        self.path.write_text(json.dumps(self.read() | {key: value.decode()}))

    async def count(self, what: str) -> None:
        pass


class ReadWhenItOpens(OneFileForAll):
    """Not listed: the file is read once, and written whole with every answer."""

    def connect(self) -> None:
        super().connect()
        self.all = super().read()

    def read(self) -> dict[str, str]:
        return self.all

    async def store(self, key: str, value: bytes) -> None:
        self.all[key] = value.decode()
        self.path.write_text(json.dumps(self.all))


class InTurnsOfOneLoop(OneFileForAll):
    """Not listed: a file read before a pause and written after it."""

    async def store(self, key: str, value: bytes) -> None:
        held = self.read()
        await asyncio.sleep(0)
        self.path.write_text(json.dumps(held | {key: value.decode()}))


class NearForEver(WriteThrough):
    """Not listed: what is in memory stays there as long as in the store."""

    staleness_seconds = 0.0

    def rest(self, milliseconds: int) -> float:
        return milliseconds / 1000


class NearForTooLong(WriteThrough):
    """Not listed: memory outlives what is declared."""

    def rest(self, milliseconds: int) -> float:
        return min(10.0, milliseconds / 1000)


class RememberedByComputing(SmallResponseCache):
    """Not listed: only get_or_compute has a memory, and nobody tells it."""

    def connect(self) -> None:
        super().connect()
        self.remembered: dict[str, Any] = {}

    async def get_or_compute(self, request: Request, compute: Any) -> Any:
        key = self.key(request)
        if key not in self.remembered:
            self.remembered[key] = await super().get_or_compute(request, compute)
        return self.copied(self.remembered[key])


class ReadRepair(WriteThrough):
    """Not listed: what memory has and the store has not is written back."""

    async def fetch(self, key: str) -> bytes | None:
        found = await super().fetch(key)
        if found is not None and not await self.redis.exists(key):
            await SmallResponseCache.store(self, key, found)
        return found


class WrittenWhenItCloses(SmallResponseCache):
    """Not listed: an instance leaves what it has found when it goes."""

    def connect(self) -> None:
        super().connect()
        self.seen: dict[str, bytes] = {}

    async def fetch(self, key: str) -> bytes | None:
        found = await super().fetch(key)
        if found is not None:
            self.seen[key] = found
        return found

    async def close(self) -> None:
        for key, value in self.seen.items():
            await self.store(key, value)
        await super().close()


class VersionReadAfterwards(Versioned):
    """Not listed: an answer of before is remembered for the version of after."""

    async def version_of(self, read_before: Any) -> Any:
        return await self.version()


class FilledAfterClearing(NearForEver):
    """Not listed: who clears empties all memories, and a look-up under way fills one again."""

    instances: ClassVar[Any] = defaultdict(list)

    def connect(self) -> None:
        super().connect()
        self.instances[self.name()].append(self)

    async def fetch(self, key: str) -> bytes | None:
        found = await super().fetch(key)
        if found is not None:
            self.near[key] = (float("inf"), found)
        return found

    async def clear(self) -> None:
        await super().clear()
        for each in self.instances[self.name()]:
            each.near.clear()


class TimeOfTheLastOpened(SmallResponseCache):
    """Not listed: the namespace has one time to live, that of the instance opened last."""

    times: ClassVar[dict[str, Any]] = {}

    def connect(self) -> None:
        super().connect()
        self.times[self.name()] = self.spec.ttl

    def milliseconds(self) -> int | None:
        ttl = self.times[self.name()]
        return None if ttl is None else round(ttl * 1000)


class TimeOfTheFirstOpened(SmallResponseCache):
    """Not listed: the first instance makes the table, with its time to live."""

    times: ClassVar[dict[str, Any]] = {}

    def milliseconds(self) -> int | None:
        ttl = self.times.setdefault(self.name(), self.spec.ttl)
        return None if ttl is None else round(ttl * 1000)


class PolicyOnTheWayIn(SmallResponseCache):
    """Not listed: what another has kept is found, whoever asks."""

    async def get(self, request: Request) -> Any:
        return await self.look(self.key(request))


class PolicyNotOfBatches(SmallResponseCache):
    """Not listed: a batch finds sampled answers."""

    async def get_or_compute_batch(self, requests: Sequence[Request], compute: Any) -> Any:
        may_share = self.may_share
        try:
            self.may_share = lambda request: True  # type: ignore[method-assign]
            return await super().get_or_compute_batch(requests, compute)
        finally:
            self.may_share = may_share  # type: ignore[method-assign]


class FlightsOfEachInstance(SmallResponseCache):
    """Not listed: a table of flights in each instance."""

    capabilities = LockedInRedis.capabilities


class LockedWithoutLookingAgain(LockedInRedis):
    """Not listed: who gets the lock computes, whatever has been kept meanwhile."""

    async def again(self, key: str) -> bytes | None:
        return None


class ImpatientLock(LockedInRedis):
    """Not listed: who has waited for a moment computes all the same."""

    async def computed(self, request: Request, compute: Any) -> Any:
        if await self.redis.exists(self.lock_of(request)):
            await asyncio.sleep(0.001)
            return await SmallResponseCache.computed(self, request, compute)
        return await super().computed(request, compute)


class OneLockInTheStore(LockedInRedis):
    """Not listed: one lock for all requests."""

    def lock_of(self, request: Request) -> str:
        return f"{self.name()}/lock"


class LockLeftBehind(LockedInRedis):
    """Not listed: only success takes the lock away."""

    async def unlock(self, lock: str, succeeded: bool) -> None:
        if succeeded:
            await super().unlock(lock, succeeded)


# Faults: ends of ranges, and times


class NoTimeIsForEver(SmallResponseCache):
    """Not listed: ``if ttl``."""

    def milliseconds(self) -> int | None:
        return super().milliseconds() or None


class NoTimeIsTheDefault(InMemory):
    """Not listed: ``ttl or 3600``."""

    async def store(self, key: str, value: Any) -> None:
        await super().store(key, value)
        if self.spec.ttl == 0:
            self.held[key] = (self.spec.clock() + 3600, value)


class NoRoomIsAllRoom(InMemory):
    """Not listed: ``if capacity``."""

    async def store(self, key: str, value: Any) -> None:
        self.held[key] = (float("inf"), value)
        if self.spec.capacity and len(self.held) > self.spec.capacity:
            del self.held[next(iter(self.held))]


class RoomForTheNewest(InMemory):
    """Not listed: others are evicted and the newest is kept, room or not."""

    async def store(self, key: str, value: Any) -> None:
        while self.held and len(self.held) >= (self.spec.capacity or len(self.held)):
            del self.held[next(iter(self.held))]
        self.held[key] = (float("inf"), value)


class TimeOfTheCallIgnored(TimedCalls):
    """Not listed: the argument is taken and not passed on."""

    async def set(self, request: Request, answer: Answer, *, ttl: float | None = None) -> None:
        await super().set(request, answer)


class TimeOfTheCallForGood(TimedCalls):
    """Not listed: the call's time is the cache's from then on."""

    async def set(self, request: Request, answer: Answer, *, ttl: float | None = None) -> None:
        if ttl is not None:
            self.spec = replace(self.spec, ttl=ttl)
        await super().set(request, answer)


class NeverLongerThanItsOwn(TimedCalls):
    """Not listed: the lesser of both times."""

    def milliseconds(self) -> int | None:
        own = super().milliseconds()
        return (
            own if own is None or self.spec.ttl is None else min(own, round(self.spec.ttl * 1000))
        )


class BrokenForTooLong(TimedCalls):
    """Not listed: the circuit breaker waits longer than is declared."""

    def breaks_for(self) -> float:
        return 60.0


class NeverTriedAgain(TimedCalls):
    """Not listed: each request that is spared counts as a failure."""

    def require_closed(self) -> None:
        if self.closed_until:
            self.closed_until = self.spec.clock() + self.breaks_for()
            raise OSError("the store was down once")


WAYS = "test_every_way_out_finds_what_came_in_by_any"
TIMES = "test_every_way_keeps_to_the_time_to_live"
POLICY = "test_every_way_keeps_to_the_policy"
CHANGED = "test_changing_an_answer_does_not_change_the_kept_one"
EQUAL_IN_BATCH = "test_equal_requests_of_a_batch_have_answers_of_their_own"
TURNS = "test_who_comes_as_the_computation_ends_computes_nothing"
WAITS = "test_who_waits_for_the_store_as_it_ends_computes_nothing"
HERD = "test_when_the_leader_ends_the_others_do_not_all_compute"
WRITERS = "test_writers_at_once_lose_nothing"
PROCESSES = "test_processes_that_write_at_once_lose_nothing"
LATER = "test_other_instances_see_a_later_answer"
RETURNS = "test_nothing_cleared_returns"
UNDER_WAY = "test_a_look_up_under_way_brings_nothing_cleared_back"
OWN_TIME = "test_each_entry_ends_as_its_instance_says"
STRICT = "test_a_strict_instance_finds_nothing_sampled"
SHARED = "test_equal_requests_to_several_instances_compute_once"
LEFT = "test_an_instance_that_ends_leaves_no_other_waiting"
NO_TIME = "test_no_time_to_live_is_no_long_one"
NO_ROOM = "test_no_room_is_no_endless_one"
CALLS = "test_a_time_to_live_of_a_call_is_that_of_its_entry"
FAILS = "test_a_store_that_fails_is_a_miss"
SHARED_MUTANTS = [
    CacheMutant(BatchesOfTheirOwn, WAYS),
    CacheMutant(ComputedBeside, WAYS),
    CacheMutant(SyncLooksElsewhere, WAYS),
    CacheMutant(BatchLivesForEver, TIMES),
    CacheMutant(ComputedLivesTwice, TIMES),
    CacheMutant(ComputingHitsRenew, TIMES),
    CacheMutant(SyncSetLivesForEver, TIMES),
    CacheMutant(BatchKeepsAll, POLICY),
    CacheMutant(ComputedKeptHoweverItEnds, POLICY),
    CacheMutant(SetKeepsSampled, POLICY),
    CacheMutant(ComputedNotCopied, CHANGED),
    CacheMutant(BatchNotCopied, CHANGED),
    CacheMutant(OneObjectForEqualRequests, EQUAL_IN_BATCH),
    CacheMutant(OneObjectOfTheStore, EQUAL_IN_BATCH),
    CacheMutant(LookedUpBeforeTheTable, WAITS),
    CacheMutant(LookedUpBeforeTheTableInMemory, TURNS),
    CacheMutant(LandsBeforeItIsKept, WAITS),
    CacheMutant(KeptInTheBackground, TURNS),
    CacheMutant(HerdAfterAFailure, HERD),
    CacheMutant(HerdAfterTheLeader, HERD),
    CacheMutant(HerdOnAnotherKey, HERD),
    CacheMutant(OneValueForAll, WRITERS),
    CacheMutant(InTurnsOfOneLoop, WRITERS),
    CacheMutant(ReadWhenItOpens, WRITERS),
    CacheMutant(OneFileForAll, PROCESSES),
    CacheMutant(OneValueForAll, PROCESSES),
    CacheMutant(NearForEver, LATER),
    CacheMutant(NearForTooLong, LATER),
    CacheMutant(RememberedByComputing, LATER),
    CacheMutant(NearForEver, RETURNS),
    CacheMutant(ReadRepair, RETURNS),
    CacheMutant(WrittenWhenItCloses, RETURNS),
    CacheMutant(VersionReadAfterwards, UNDER_WAY),
    CacheMutant(FilledAfterClearing, UNDER_WAY),
    CacheMutant(TimeOfTheLastOpened, OWN_TIME),
    CacheMutant(TimeOfTheFirstOpened, OWN_TIME),
    CacheMutant(PolicyOnTheWayIn, STRICT),
    CacheMutant(PolicyNotOfBatches, STRICT),
    CacheMutant(FlightsOfEachInstance, SHARED),
    CacheMutant(LockedWithoutLookingAgain, SHARED),
    CacheMutant(ImpatientLock, SHARED),
    CacheMutant(OneLockInTheStore, LEFT),
    CacheMutant(LockLeftBehind, LEFT),
    CacheMutant(NoTimeIsForEver, NO_TIME),
    CacheMutant(NoTimeIsTheDefault, NO_TIME),
    CacheMutant(NoRoomIsAllRoom, NO_ROOM),
    CacheMutant(RoomForTheNewest, NO_ROOM),
    CacheMutant(TimeOfTheCallIgnored, CALLS),
    CacheMutant(TimeOfTheCallForGood, CALLS),
    CacheMutant(NeverLongerThanItsOwn, CALLS),
    CacheMutant(BrokenForTooLong, FAILS),
    CacheMutant(NeverTriedAgain, FAILS),
]
SHARED_SOUND: list[Any] = [TimedCalls, WriteThrough, Versioned, LockedInRedis, LockedInSqlite]
