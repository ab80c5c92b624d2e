"""A store is shared, fails, and has things in it that nobody here has put there."""

from __future__ import annotations

import asyncio
import pickle
from contextlib import nullcontext
from typing import Any

from ..base import requires
from .counted import Computation
from .redis_proxy import FAULTS, Fault
from .requests import BASE, ask, reply, short
from .trial import Caches, CacheSuite, Trial, nothing, on_caches, same, warnings_logged

_SLOW_COMMANDS = {"KEYS", "FLUSHDB", "FLUSHALL", "DEBUG", "SORT", "RANDOMKEY"}
_SCANS = _SLOW_COMMANDS | {
    "SCAN",
    "HGETALL",
    "SMEMBERS",
    "HSCAN",
    "SSCAN",
    "ZSCAN",
    "HKEYS",
    "HVALS",
}
_executed: list[str] = []


class StoreProperties(CacheSuite):
    topic = ""

    @requires("clear")
    @on_caches()
    async def test_clearing_forgets_all_of_this_namespace_and_no_other(self, trial: Trial) -> None:
        """Hundreds of entries, neighbours whose names begin alike, names with characters that
        patterns know.

        Usual causes: one page of ``SCAN``, ``FLUSHDB``, a pattern without a delimiter or without
        escaping, counters or an index that survive.
        """
        base = trial.spec.namespace
        own = f"{base}[ab]*?"
        others = [f"{base}a", f"{base}[ab]*?more", f"{base}[ab]", f"{base}axx", f"{base}bcd"]
        cache, neighbours = await trial.open(namespace=own), []
        for name in others:
            neighbours.append(await trial.open(namespace=name))
            await neighbours[-1].set(BASE, reply(name))
        await cache.clear()
        asked = [ask(f"Question {number}?") for number in range(300)]
        await _keep(cache, asked)
        same(await cache.get(asked[-1]), reply("kept"), "before it was cleared")
        await cache.clear()
        left = [answer for each in asked if (answer := await cache.get(each)) is not None]
        assert not left, f"{len(left)} of {len(asked)} entries are still there"
        for name, neighbour in zip(others, neighbours, strict=True):
            same(await neighbour.get(BASE), reply(name), f"{own} was cleared, not {name}")
        await cache.set(BASE, reply("new"))
        same(await cache.get(BASE), reply("new"), "after it was cleared")

    @requires("redis", "clear")
    @on_caches(proxied=True)
    async def test_clearing_leaves_nothing_and_spares_what_others_put_there(
        self, trial: Trial
    ) -> None:
        """No key of its own is left, counters aside if they count on, and each foreign one is.

        Usual causes: ``FLUSHDB``, ``KEYS`` on a server that others use.
        """
        cache, namespace = await trial.open(), trial.spec.namespace
        foreign = [
            f"{namespace}2",
            f"{namespace}2:x",
            f"{namespace}bc:entry",
            f"z{namespace}:x",
        ]
        foreign += [f"other:{namespace}", f"{namespace[:-1]}:x"]
        before = {*trial.entries.keys()}
        trial.entries.put_foreign(foreign)
        try:
            asked = [ask(f"Question {number}?") for number in range(60)]
            for request in asked:
                await cache.set(request, reply("kept"))
            trial.proxy.reset()
            await cache.clear()
            used = _SLOW_COMMANDS & {*trial.proxy.commands}
            assert not used, f"{', '.join(sorted(used))} to clear a namespace"
            gone = trial.entries.missing(foreign)
            assert not gone, f"foreign keys were deleted: {', '.join(gone)}"
            names = {name.encode() for name in foreign}
            left = {*trial.entries.keys()} - names - before
            # Counters, a version, an empty index may stay; a key for each entry may not.
            assert len(left) < 10, f"{len(left)} keys are left, as {short([*left][:3])}"
        finally:
            trial.entries.remove(foreign)

    @requires("redis")
    @on_caches()
    async def test_keys_carry_the_namespace(self, trial: Trial) -> None:
        """Who looks at the server sees whose entries these are, and can let them live less long.

        Usual causes: a bare hash for a key.
        """
        cache = await trial.open()
        before = len(trial.entries.keys())
        await cache.set(BASE, reply("kept"))
        found = len(trial.entries.keys()) - before
        assert found > 0, f"no key with {trial.spec.namespace} in its name was written"

    @requires("redis")
    @on_caches(proxied=True)
    async def test_a_look_up_costs_the_same_however_much_is_kept(self, trial: Trial) -> None:
        """In commands to the server, for hits and for misses, and none that look at all keys.

        Usual causes: ``KEYS`` or ``SCAN`` for a look-up, a command for each entry.
        """
        cache = await trial.open()
        costs = []
        for count in (5, 100):
            asked = [ask(f"Question {number}?") for number in range(count)]
            await _keep(cache, asked)
            for request in (asked[0], ask("Unknown?")):
                costs.append(await _cost(trial, cache, request))
        assert costs[:2] == costs[2:], (
            f"a hit and a miss are {costs[:2]} commands with 5 entries, {costs[2:]} with 100"
        )

    @requires("redis")
    def test_damaged_entries_are_misses(self, caches: Caches) -> None:
        """Cut in half, of another program, of another type: they are not found (the right answer
        may be, in memory), nobody sees an error, no code in them is run, and they can be written
        anew.

        Usual causes: an unpickled value, a parser's error that reaches the caller, a field that is
        looked for without asking whether it is there.
        """
        changes: list[bytes | None] = [
            None,
            b"",
            b"\xff\xfe\x00",
            b"{}",
            b"null",
            b"[]",
            b"0",
            b'"a"',
        ]
        changes += [b'{"content": "wrong"}', b"wrong", pickle.dumps(_RunsCode())]
        foreign = [reply("foreign"), "foreign", {"version": 0, "answer": reply("foreign")}]
        changes += [pickle.dumps(each) for each in foreign]

        for change in changes:

            async def holds(trial: Trial, change: bytes | None = change) -> None:
                cache = await trial.open()
                await cache.set(BASE, reply("kept" * 50))
                # One that has found it before, and others that have not.
                caches = [
                    cache,
                    *[await trial.open() for _ in "ab" if "shared" in self.capabilities],
                ]
                damaged = trial.entries.damage(change)
                assert damaged, "no string and no hash to damage"
                _executed.clear()
                what = "cut in half" if change is None else f"replaced by {change[:30]!r}"
                for reader in caches:
                    found = await reader.get(BASE)
                    assert not _executed, f"code in an entry was run ({what})"
                    if found is not None:  # from memory
                        same(found, reply("kept" * 50), what)
                await _check_written_anew(self, caches[-1], what)

            caches.check(holds)

        async def retyped(trial: Trial) -> None:
            cache = await trial.open()
            await cache.set(BASE, reply("kept"))
            assert trial.entries.retype()
            found = await cache.get(BASE)
            if found is not None:  # from memory
                same(found, reply("kept"), "replaced by lists")
            elif "compute" in self.capabilities:
                same(await cache.get_or_compute(BASE, Computation()), reply("computed 1"))

        caches.check(retyped)

    @requires("redis")
    @on_caches(proxied=True, redis_timeout=0.25, within=15.0, each={"fault": FAULTS})
    async def test_a_store_that_fails_is_a_miss(self, trial: Trial, fault: Fault) -> None:
        """Down, hung, full, read-only, loading, or gone in the middle of a reply: requests are
        served without it, and with it when it is back, ``recovers_within`` seconds later.

        Usual causes: an error of the client that reaches the caller, no timeout, a connection
        that is used again after half a reply, one that is never made again.
        """
        cache = await trial.open()
        await cache.set(BASE, reply("kept"))
        await cache.set(ask("Other?"), reply("other"))
        trial.proxy.fault = fault
        new = ask("New?")
        with trial.time_outs_skipped() if fault == "hung" else nullcontext():
            await _check_without_store(self, cache, new, fault)
        trial.proxy.fault = None
        await trial.advance(self.recovers_within)
        same(await _again(cache, ask("Other?")), reply("other"), f"after {fault}")
        await cache.set(ask("Newest?"), reply("newest"))
        same(await cache.get(ask("Newest?")), reply("newest"), f"after {fault}")

    @requires("redis")
    @on_caches(proxied=True)
    async def test_a_store_that_is_down_at_the_start_is_a_miss(self, trial: Trial) -> None:
        """A service starts without its cache.

        Usual causes: a connection or an index made when the cache is.
        """
        trial.proxy.fault = "down"
        cache = await trial.open()
        nothing(await cache.get(BASE))
        await cache.set(BASE, reply("kept"))
        trial.proxy.fault = None
        await trial.advance(self.recovers_within)
        await cache.set(ask("Later?"), reply("later"))
        same(await _again(cache, ask("Later?")), reply("later"), "when the server is there")

    @requires("redis")
    @on_caches(proxied=True, redis_timeout=0.2)
    async def test_a_slow_store_is_waited_for_or_done_without(self, trial: Trial) -> None:
        """A server that is within its time serves; one that is not is a miss.

        Usual causes: late replies that answer the next request.
        """
        cache = await trial.open()
        asked = [ask(f"Question {number}?") for number in range(4)]
        for number, request in enumerate(asked):
            await cache.set(request, reply(f"answer {number}"))
        for delay in (trial.spec.redis_timeout / 20, 1.5 * trial.spec.redis_timeout, 0.0):
            trial.proxy.delay = delay
            for number, request in enumerate(asked[:2] if delay > 0.1 else asked):
                found = await cache.get(request)
                if found is not None:
                    same(found, reply(f"answer {number}"), f"replies {delay} s late")
        await trial.advance(self.recovers_within)
        same(await _again(cache, asked[0]), reply("answer 0"), "when it is quick again")

    @requires("redis", "warns")
    @on_caches(proxied=True, each={"fault": ("down", "full", "read-only")})
    async def test_a_store_that_fails_is_told_of(self, trial: Trial, fault: Fault) -> None:
        """The log has a warning: nobody wants a cache that has been down for a week.

        Usual causes: ``except Exception: pass``.
        """
        cache = await trial.open()
        await cache.get(BASE)
        trial.proxy.fault = fault
        with warnings_logged() as records:
            await cache.set(BASE, reply("kept"))
            await cache.get(BASE)
        assert records, f"the server was {fault}, and no warning was logged"


async def _keep(cache: Any, asked: list[Any]) -> None:
    for first in range(0, len(asked), 20):  # not all at once: clients have a limit of connections
        few = asked[first : first + 20]
        await asyncio.gather(*(cache.set(each, reply("kept")) for each in few))


async def _cost(trial: Trial, cache: Any, request: Any) -> int:
    """The commands of a look-up: the fewest of several, for scripts are loaded once and counters
    may be sent now and then."""
    counts = []
    for _ in range(5):
        trial.proxy.reset()
        await cache.get(request)
        commands = [*trial.proxy.commands]
        used = _SCANS & {*commands}
        assert not used, f"{', '.join(sorted(used))} for a look-up"
        counts.append(len(commands))
    return min(counts)


async def _check_written_anew(suite: CacheSuite, cache: Any, what: str) -> None:
    found = await cache.get(BASE)
    if "compute" in suite.capabilities:
        anew = found or reply("computed 1")
        same(await cache.get_or_compute(BASE, Computation()), anew, what)
    else:
        anew = reply("anew")
        await cache.set(BASE, anew)
    same(await cache.get(BASE), anew, f"written again after it was {what}")


async def _check_without_store(suite: CacheSuite, cache: Any, new: Any, fault: Fault) -> None:
    for _ in range(2):
        found = await cache.get(BASE)
        if found is not None:  # from memory, or from a server that still reads
            same(found, reply("kept"), fault)
    nothing(await cache.get(new), fault)
    if "compute" in suite.capabilities:
        compute = Computation()
        same(await cache.get_or_compute(new, compute), reply("computed 1"), fault)
    await cache.set(new, reply("new"))
    found = await cache.get(new)
    if found is not None:
        kept = ("new", "computed 1")
        assert found["content"] in kept, f"{fault}: found {short(found)}, kept were {kept}"


async def _again(cache: Any, request: Any) -> Any:
    """What is found when the server is back, if need be on the second try: the first may only
    have found out that its connection is gone."""
    found = await cache.get(request)
    return found if found is not None else await cache.get(request)


class _RunsCode:
    """Whoever unpickles it runs what its writer wants."""

    def __reduce__(self) -> Any:
        return _execute, ("unpickled",)


def _execute(word: str) -> None:
    _executed.append(word)
