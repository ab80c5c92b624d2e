"""Putting a property on trial: caches of one namespace, their clock, and their Redis server."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ..base import Suite
from ..properties import tried
from .protocol import Answer, CacheSpec, Request, VirtualClock
from .redis_entries import RedisEntries
from .redis_proxy import RedisProxy
from .requests import FIELDS, IRRELEVANT

Property = Callable[["Trial"], Awaitable[None]]
_NUMBERS = itertools.count()
_HANGS = 30.0  # seconds after which a property has hung: the properties take less than a few


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
        made = self._make(replace(spec, directory=spec.directory / spec.namespace))
        cache = await made if inspect.isawaitable(made) else made
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
        """Let time pass: on the clock that the caches were given, and in the Redis server."""
        if self._real_time:
            await asyncio.sleep(seconds)
            return
        self.spec.clock.now += seconds
        if self._entries is not None:
            self._entries.age(seconds)

    async def judge(self, holds: Property, within: float) -> None:
        """Run the property and close the caches; raises AssertionError where it never ends."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(within):
                await holds(self)
        except TimeoutError as error:
            if time.monotonic() - began < within:
                raise
            raise AssertionError(f"nothing came in {within:.0f} seconds") from error
        finally:
            if self._proxy is not None and self._proxy.fault is not None:
                self._proxy.fault = None
            for cache in self._opened[:]:
                await self.close(cache)


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
            asyncio.run(trial.judge(holds, within))
        finally:
            if proxy is not None:
                proxy.close()
            if entries is not None:
                entries.remove()
                entries.close()
            shutil.rmtree(directory, ignore_errors=True)


on_caches = tried("caches", by="_check")  # a property of one `Trial`


class CacheSuite(Suite):
    """What the suites for caches share.

    ``real_time``: an implementation's entries end by a clock that is neither ``spec.clock`` nor
    that of its Redis server. The suite then waits; ``ttl`` is the time to live that it asks for.
    ``fields``: those fields of a request that the implementation knows.
    ``irrelevant``: fields that must not keep an answer from being found.
    """

    topic: ClassVar[str] = ""
    real_time: ClassVar[bool] = False
    ttl: ClassVar[float] = 8.0
    fields: ClassVar[Collection[str]] = tuple(FIELDS)
    irrelevant: ClassVar[Collection[str]] = tuple(IRRELEVANT)

    @pytest.fixture
    def redis_url(self, request: pytest.FixtureRequest) -> str | None:
        """The server for what claims "redis": that of the fixture ``redis_server``."""
        if "redis" not in self.capabilities:
            return None
        return str(request.getfixturevalue("redis_server").url)

    def _check(
        self, caches: Caches, holds: Property, *, mortal: bool = False, **options: Any
    ) -> None:
        """Try a property. ``mortal``: entries end after ``ttl``."""
        __tracebackhide__ = True
        caches.check(holds, **({"ttl": self.ttl, **options} if mortal else options))

    def serves(self, request: Request) -> bool:
        """Whether an answer to this request must be found again; no wrong one ever may."""
        return True

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
