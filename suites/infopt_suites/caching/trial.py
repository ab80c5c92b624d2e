"""Putting a property on trial: caches of one namespace, their clock, and their Redis server."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import selectors
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ..base import Suite
from ..properties import noted, tried
from ..wall_clock import virtual_time
from .protocol import Answer, CacheSpec, Request, VirtualClock
from .redis_entries import RedisEntries
from .redis_proxy import RedisProxy
from .requests import FIELDS, IRRELEVANT

Property = Callable[["Trial"], Awaitable[None]]
_NUMBERS = itertools.count()
_AWAITED = frozenset(
    {"get", "set", "get_or_compute", "get_or_compute_batch", "clear", "counters", "complete"}
)
_PATIENCE = 200  # milliseconds for what may never come
_PAUSE = 0.01  # seconds between two looks at what is on its way
_CLOSES = 5.0  # seconds in which caches close
_HANGS = 30.0  # seconds after which a property has hung: the properties take less than a few
_NO_SERVER = (
    'spec.redis_url was None, since the capability "redis" is not claimed; a cache that keeps its '
    "entries in Redis claims it"
)


class Trial:
    """What a property works with: `open` makes caches, `advance` lets time pass."""

    def __init__(
        self,
        make: Callable[[Any], Any],
        spec: CacheSpec,
        entries: RedisEntries | None,
        proxy: RedisProxy | None,
        *,
        real_time: bool,
    ) -> None:
        self._make, self.spec, self._real_time = make, spec, real_time
        self._entries, self._proxy = entries, proxy
        self._opened: list[Any] = []

    @property
    def entries(self) -> RedisEntries:
        """What is in the Redis server."""
        assert self._entries is not None, "no Redis server"
        return self._entries

    @property
    def proxy(self) -> RedisProxy:
        """The Redis server as the caches see it."""
        assert self._proxy is not None, "no proxy was asked for"
        return self._proxy

    async def open(self, **options: Any) -> Any:
        """A further cache, of the same namespace unless another is given."""
        spec = replace(self.spec, **options)
        spec.directory.joinpath(spec.namespace).mkdir(exist_ok=True)
        with noted("" if spec.redis_url else _NO_SERVER):
            made = self._make(replace(spec, directory=spec.directory / spec.namespace))
            cache = _Awaited(await made if inspect.isawaitable(made) else made)
        self._opened.append(cache)
        return cache

    async def close(self, cache: Any) -> None:
        """Close one of the caches."""
        if cache in self._opened:
            self._opened.remove(cache)
            close = getattr(cache, "close", None)
            if close is not None:
                await close()

    async def advance(self, seconds: float) -> None:
        """Let time pass: on the clock that the caches were given, on Python's clocks and the event
        loop's, and in the Redis server."""
        if self._real_time:
            await asyncio.sleep(seconds)
            return
        self.spec.clock.now += seconds
        _running_loop().advance(seconds)
        if self._entries is not None:
            self._entries.age(seconds)
        await asyncio.sleep(0)  # for what was to be called by now

    @contextmanager
    def time_outs_skipped(self) -> Iterator[None]:
        """Meanwhile nothing can come but time-outs: those of the server pass at once for who waits
        on the event loop, and for who blocks a thread as ever."""
        loop = _running_loop()
        loop.skips = self.spec.redis_timeout
        try:
            yield
        finally:
            loop.skips = 0.0

    async def held_up(
        self, one: Awaitable[Any], other: Awaitable[Any], *, command: int, before: bool
    ) -> tuple[Any, Any]:
        """What both come to; ``one`` is held up at one of its commands to the Redis server until
        ``other`` has ended.

        ``command``: which of them, from 1; ``before``: before it reaches the server, else before
        its reply is passed on. It goes on too where the other waits for it, and where it sends no
        such command.
        """
        self.proxy.hold(command, before=before)
        first = asyncio.ensure_future(one)
        for _ in range(_PATIENCE):
            if first.done() or self.proxy.holding:
                break
            await asyncio.sleep(0.001)
        second = asyncio.ensure_future(other)
        await asyncio.wait([second], timeout=_PATIENCE / 1000)
        self.proxy.release()
        return await first, await second

    async def judge(self, holds: Property, within: float) -> None:
        """Run the property and close the caches; raises AssertionError where it never ends."""
        try:
            await self._within(holds(self), within)
        except BaseException:
            with suppress(Exception):
                await self._within(self._close_all(), _CLOSES)
            raise
        await self._within(self._close_all(), _CLOSES)

    async def _within(self, work: Awaitable[None], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds) as limit:
                _running_loop().limit = limit
                await work
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise AssertionError(f"nothing came in {seconds:.0f} seconds") from error

    async def _close_all(self) -> None:
        if self._proxy is not None:
            self._proxy.recover()
        for cache in self._opened[:]:
            await self.close(cache)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop in real time, and what the suite lets pass besides.

    It leaves out waits of at most ``skips`` seconds in which nothing comes. ``limit`` is that of
    the property, which has as much real time whatever is let pass.
    """

    skips = 0.0
    limit = asyncio.Timeout(None)
    # Not a module's name, which `virtual_time` would replace: clocks show this loop's time.
    _monotonic = staticmethod(time.monotonic)

    def __init__(self) -> None:
        super().__init__(_Selector(self))
        self._passed = 0.0

    def time(self) -> float:
        return self._monotonic() + self._passed

    def advance(self, seconds: float) -> None:
        self._passed += seconds
        limit = self.limit.when()
        if limit is not None:
            self.limit.reschedule(limit + seconds)


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: _Loop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or not _PAUSE < timeout <= self._loop.skips:
            return super().select(timeout)
        found = super().select(_PAUSE)
        if not found:
            self._loop.advance(timeout - _PAUSE)
        return found


def _running_loop() -> _Loop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop)
    return loop


class _Awaited:
    """A cache, or a service, that says which of its ways cannot be awaited."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._cache, name, None)
        if found is None and name in _AWAITED | {"lookup", "keep", "stream"}:
            raise AssertionError(
                f"{type(self._cache).__name__} has no method {name}; "
                "infopt_suites.caching.protocol says which capability asks for it"
            )
        if found is None:
            raise AttributeError(name)
        if name not in _AWAITED:
            return found

        def call(*arguments: Any, **options: Any) -> Awaitable[Any]:
            result = found(*arguments, **options)
            if not inspect.isawaitable(result):
                raise AssertionError(
                    f"{type(self._cache).__name__}.{name} returned {type(result).__name__}, and is "
                    f"awaited: write `async def {name}`. Ways without an event loop are lookup "
                    'and keep, of the capabilities "sync" and "sync set"'
                )
            return result

        return call


@dataclass(frozen=True)
class Caches:
    """How to make the implementation's caches, and where they keep their entries."""

    make: Callable[[Any], Any]
    redis_url: str | None = None
    spec: type[CacheSpec] = CacheSpec
    options: Mapping[str, Any] = field(default_factory=dict)
    real_time: bool = False

    def check(
        self, holds: Property, *, proxied: bool = False, within: float = _HANGS, **options: Any
    ) -> None:
        """Raise what the property raises on caches of a new namespace, which is removed again.

        ``proxied``: the caches see the Redis server through ``trial.proxy``.
        ``within``: the seconds after which the property has hung.
        """
        __tracebackhide__ = True
        namespace = f"infopt{os.getpid():08x}n{next(_NUMBERS):06x}"
        directory = Path(tempfile.mkdtemp(prefix=namespace))
        url = self.redis_url
        entries = RedisEntries(url, namespace) if url is not None else None
        proxy = RedisProxy(url) if proxied and url is not None else None
        seen = url if proxy is None else proxy.url
        chosen = {**self.options, "redis_url": seen, **options}
        asked = self.spec(namespace, VirtualClock(), directory, **chosen)
        trial = Trial(self.make, asked, entries, proxy, real_time=self.real_time)
        try:
            with asyncio.Runner(loop_factory=_Loop) as runner:
                loop = runner.get_loop()
                with virtual_time(loop.time, time.sleep):
                    runner.run(trial.judge(holds, within))
        finally:
            if proxy is not None:
                proxy.close()
            if entries is not None:
                entries.remove()
            shutil.rmtree(directory, ignore_errors=True)


on_caches = tried("caches", by="_check")  # a property of one `Trial`


class CacheSuite(Suite):
    """What the suites for caches share.

    ``real_time``: an implementation's entries end by a clock that is neither ``spec.clock``, one of
    Python's or the event loop's, nor that of its Redis server. The suite then waits.
    ``ttl``: the time to live that the suite asks for, in seconds.
    ``fields``: those fields of a request that the implementation knows.
    ``irrelevant``: fields that must not keep an answer from being found.
    ``normal_form``: a request to what the implementation takes it for: requests of equal normal
    forms, such as texts in lower case, may share an answer. By default each is its own.
    ``staleness_seconds``: for how long an instance may still serve what another has replaced or
    cleared, such as from a layer in memory.
    ``recovers_within``: for how long a store that failed may be done without when it is back, such
    as by a circuit breaker.
    """

    topic: ClassVar[str] = ""
    real_time: ClassVar[bool] = False
    ttl: ClassVar[float] = 8.0
    fields: ClassVar[Collection[str]] = tuple(FIELDS)
    irrelevant: ClassVar[Collection[str]] = tuple(IRRELEVANT)
    normal_form: ClassVar[Callable[[Any], Any]] = dict
    staleness_seconds: ClassVar[float] = 0.0
    recovers_within: ClassVar[float] = 0.0

    @pytest.fixture
    def redis_url(self, request: pytest.FixtureRequest) -> str | None:
        """The server for what claims "redis": that of the fixture ``redis_server``."""
        if "redis" not in self.capabilities:
            return None
        return str(request.getfixturevalue("redis_server").url)

    def implementation_in(self, fixtures: Mapping[str, Any]) -> Any:
        (caches,) = fixtures.values()
        return caches.make

    def _check(
        self, caches: Caches, holds: Property, *, mortal: bool = False, **options: Any
    ) -> None:
        """Try a property. ``mortal``: entries end after ``ttl``."""
        __tracebackhide__ = True
        caches.check(holds, **({"ttl": self.ttl, **options} if mortal else options))

    def serves(self, request: Request) -> bool:
        """Whether an answer to this request must be found again; no wrong one ever may."""
        return True

    def form(self, request: Request) -> Any:
        """The request's normal form."""
        return type(self).normal_form(request)

    async def fresh(
        self, trial: Trial, look: Callable[[], Awaitable[Any]], wanted: Answer | None
    ) -> Any:
        """What a look finds: the first, or the first that is ``wanted``, at the latest when
        ``staleness_seconds`` are over."""
        found = await look()
        if found == wanted or not self.staleness_seconds:
            return found
        await trial.advance(self.staleness_seconds)
        # Messages between instances take real time, whatever the caches' clock says.
        for _ in range(round(min(self.staleness_seconds, 5.0) / _PAUSE)):
            found = await look()
            if found == wanted:
                return found
            await asyncio.sleep(_PAUSE)
        return await look()

    def expect(
        self, found: Answer | None, wanted: Answer, request: Request, where: object = ""
    ) -> None:
        """Raise AssertionError unless this is what a kept answer comes back as."""
        __tracebackhide__ = True
        if found is not None or self.serves(request):
            same(found, wanted, where)


def same(found: Answer | None, wanted: Answer, where: object = "") -> None:
    """Raise AssertionError unless an answer was found and is the wanted one, types and all."""
    __tracebackhide__ = True
    assert found is not None, f"nothing was found{_at(where)}"
    told = difference(found, wanted)
    assert told is None, f"not the answer that was kept{_at(where)}: {told}"


def nothing(found: Answer | None, where: object = "") -> None:
    """Raise AssertionError if an answer was found."""
    __tracebackhide__ = True
    assert found is None, f"an answer was found{_at(where)}: {str(found)[:200]}"


def difference(found: Any, wanted: Any, path: str = "answer") -> str | None:
    """Where two answers differ, in words; None if they are equal and of the same types."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        if found.keys() != wanted.keys():
            return f"{path} has {sorted(found)}, not {sorted(wanted)}"
        pairs = [(f"{path}.{key}", found[key], wanted[key]) for key in wanted]
    elif type(found) is type(wanted) and isinstance(found, (list, tuple)):
        if len(found) != len(wanted):
            return f"{path} has {len(found)} entries, not {len(wanted)}"
        pairs = [(f"{path}[{i}]", *both) for i, both in enumerate(zip(found, wanted, strict=True))]
    else:
        equal = type(found) is type(wanted) and _equal(found, wanted)
        return None if equal else f"{path} is {str(found)[:80]!r}, not {str(wanted)[:80]!r}"
    return next((told for p, f, w in pairs if (told := difference(f, w, p))), None)


def _equal(found: Any, wanted: Any) -> bool:
    if hasattr(wanted, "dtype"):
        return bool(
            found.dtype == wanted.dtype
            and found.shape == wanted.shape
            and found.tobytes() == wanted.tobytes()
        )
    return bool(found == wanted) or (found != found and wanted != wanted)


def _at(where: object) -> str:
    return f" ({where})" if where != "" else ""


@contextmanager
def warnings_logged() -> Iterator[list[logging.LogRecord]]:
    """The records of level WARNING and above that reach the root logger meanwhile."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign, assignment]  # called, and no more
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield records
    finally:
        root.removeHandler(handler)
