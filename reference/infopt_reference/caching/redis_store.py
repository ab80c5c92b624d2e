"""A store on a Redis server, or on any that speaks its protocol (Valkey, for one).

Values are strings (``SET PX``, ``GET``), numbers are hashes (``HINCRBY``), logs are streams
(``XADD``, ``XRANGE``). Whatever concerns several keys goes in one pipeline.

Contract
- The number of commands of an operation does not grow with the number of keys on the server; only
  `delete_prefix` goes over them, page by page with ``SCAN``, which lets other clients in between.
- The server has ``timeout`` seconds to answer, twice that where a connection has to be made again.
  Of a burst, `CONCURRENT` operations are under way at once, the others wait, up to `QUEUE` times
  as long: what a busy process makes wait is no fault of the server.
- A connection that turns out to be broken is made anew once, so that a server that was restarted
  is used again at once. An addition that broke off may then be counted twice, never not at all.
- One object serves every event loop: each has its connections, closed when the loop is shut down.

Leaves out: Redis Cluster and Sentinel (hand over a URL of a proxy), secrets other than in the URL.

Source: redis.io, documentation of the commands named above.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .store import LOG_START, LogId

if TYPE_CHECKING:
    from redis.asyncio import Redis

CONCURRENT = 64
QUEUE = 10
PAGE = 1000  # keys of one SCAN


class RedisStore:
    """A store on the server of ``url``; see `Store`.

    Args:
        url: ``redis://host:port/database``, ``rediss://…`` or ``unix://path``.
        timeout: seconds that an operation may take before it counts as failed.
    """

    def __init__(self, url: str, timeout: float = 1.0) -> None:
        if not (timeout > 0 and math.isfinite(timeout)):
            raise ValueError(f"timeout is {timeout}; give seconds above 0")
        self.url = url
        self.timeout = timeout
        self._clients: dict[asyncio.AbstractEventLoop, _Client] = {}

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._call("get", key)
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return await self._call("mget", keys) if keys else []

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        await self._call("set", key, value, px=milliseconds(ttl))

    async def delete(self, *keys: str) -> None:
        if keys:
            await self._call("unlink", *keys)

    async def delete_prefix(self, prefix: str) -> int:
        client = await self.client()
        pattern = re.sub(r"([\[\]*?\\^-])", r"\\\1", prefix) + "*"
        count = 0
        page: list[bytes] = []
        async for key in client.scan_iter(pattern, count=PAGE):
            page.append(key)
            if len(page) == PAGE:
                count += await client.unlink(*page)
                page.clear()
        return count + (int(await client.unlink(*page)) if page else 0)

    async def increment(self, key: str, amounts: Mapping[str, int]) -> None:
        client = await self._client()
        pipeline = client.redis.pipeline(transaction=True)
        for name, amount in amounts.items():
            pipeline.hincrby(key, name, amount)
        async with client.slots:
            await pipeline.execute()

    async def numbers(self, key: str) -> dict[str, int]:
        found = await self._call("hgetall", key)
        return {name.decode(): int(number) for name, number in found.items()}

    async def append(self, log: str, value: bytes) -> LogId:
        return log_id(await self._call("xadd", log, {b"": value}))

    async def read_log(
        self, log: str, after: LogId = LOG_START, limit: int = 1000
    ) -> list[tuple[LogId, bytes]]:
        start = f"({after.milliseconds}-{after.number}"
        items = await self._call("xrange", log, min=start, count=limit)
        return [(log_id(position), entry[b""]) for position, entry in items]

    async def remove(self, log: str, ids: Sequence[LogId]) -> None:
        if ids:
            await self._call("xdel", log, *[f"{time}-{number}" for time, number in ids])

    async def close(self) -> None:
        """Closes the connections of the running loop. The next operation makes new ones."""
        client = self._clients.get(asyncio.get_running_loop())
        if client:
            await client.closing.aclose()

    async def client(self) -> Any:  # what its methods return, versions of redis-py type differently
        """The running loop's client, a `redis.asyncio.Redis`."""
        return (await self._client()).redis

    async def command(self, *words: Any) -> Any:
        """Any command of the server, such as ``("VCARD", "key")``; its reply."""
        return await self._call("execute_command", *words)

    async def _call(self, command: str, *arguments: Any, **options: Any) -> Any:
        """One command, as soon as fewer than `CONCURRENT` others are under way."""
        client = await self._client()
        # redis-py has a pool that waits, at four times the cost where there is no need to.
        if client.slots.locked():
            async with asyncio.timeout(QUEUE * self.timeout):
                await client.slots.acquire()
        else:
            await client.slots.acquire()
        try:
            return await getattr(client.redis, command)(*arguments, **options)
        finally:
            client.slots.release()

    async def _client(self) -> _Client:
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            redis = _connect(self.url, self.timeout)
            slots = asyncio.Semaphore(CONCURRENT)
            client = _Client(redis, slots, self._until_shutdown(loop, redis))
            self._clients[loop] = client
            await anext(client.closing)
        return client

    async def _until_shutdown(
        self, loop: asyncio.AbstractEventLoop, redis: Redis
    ) -> AsyncGenerator[None, None]:
        """A loop that is shut down ends the generators it started: the one place where a library
        can close its connections while the loop still runs."""
        try:
            yield
        finally:
            del self._clients[loop]
            await redis.aclose()


class _Client(NamedTuple):
    redis: Redis
    slots: asyncio.Semaphore
    closing: AsyncGenerator[None, None]


def _connect(url: str, timeout: float) -> Redis:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError

    return Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )


def milliseconds(ttl: float | None) -> int | None:
    """A time to live as servers take it: rounded up, as 0 would be an error there."""
    return None if ttl is None else max(1, math.ceil(ttl * 1000))


def log_id(text: bytes) -> LogId:
    """The id of a stream's entry, ``b"1700000000000-0"``."""
    time, _, number = text.partition(b"-")
    return LogId(int(time), int(number))
