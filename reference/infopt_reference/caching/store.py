"""Where caches keep bytes: the protocol of a store, and one in this process's memory.

A store has values with an expiry, hashes of whole numbers that only grow by atomic additions, and
logs: values in the order they were added, each with an id (milliseconds of the store's clock, and a
number within the millisecond), which is what a Redis stream is.

Contract
- An entry is gone at the time of writing + ttl on the store's clock; reading does not extend it.
- `increment` is atomic: of concurrent additions none is lost.
- A store that cannot answer raises, and does so in a bounded time; caches take that for a miss.
- `delete_prefix` removes all keys that begin with a prefix and no others.

Leaves out: a limit on the memory of `MemoryStore`; expired values are dropped as it grows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

Clock = Callable[[], float]


class LogId(NamedTuple):
    """Where an item stands in a log; ids grow."""

    milliseconds: int
    number: int


LOG_START = LogId(0, 0)  # before every item


class Store(Protocol):
    """What the caches need of a store. Times to live are in seconds; None means for ever."""

    async def get(self, key: str) -> bytes | None: ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None: ...

    async def delete(self, *keys: str) -> None: ...

    async def delete_prefix(self, prefix: str) -> int:
        """Removes every key that begins with ``prefix``; how many there were."""

    async def increment(self, key: str, amounts: Mapping[str, int]) -> None:
        """Adds to the numbers of the hash ``key``; missing ones are 0."""

    async def numbers(self, key: str) -> dict[str, int]:
        """The numbers of a hash."""

    async def append(self, log: str, value: bytes) -> LogId:
        """Adds an item to the end of a log; its id."""

    async def read_log(
        self, log: str, after: LogId = LOG_START, limit: int = 1000
    ) -> list[tuple[LogId, bytes]]:
        """Up to ``limit`` items of a log that came after ``after``, in their order."""

    async def remove(self, log: str, ids: Sequence[LogId]) -> None:
        """Removes items of a log; those that are gone already do not matter."""

    async def close(self) -> None: ...


class MemoryStore:
    """A store in this process's memory.

    ``clock`` returns seconds; with a clock of your own, time passes as you say.
    """

    def __init__(self, clock: Clock = time.time) -> None:
        self.clock = clock
        self._values: dict[str, tuple[bytes, float | None]] = {}  # value, when it expires
        self._numbers: dict[str, dict[str, int]] = {}
        self._logs: dict[str, dict[LogId, bytes]] = {}
        self._last_id = LOG_START
        self._sweep_at = 64

    async def get(self, key: str) -> bytes | None:
        value, expires = self._values.get(key, (None, None))
        if expires is not None and self.clock() >= expires:
            del self._values[key]
            return None
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [await self.get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl: float | None = None) -> None:
        self._values[key] = (bytes(value), None if ttl is None else self.clock() + ttl)
        if len(self._values) >= self._sweep_at:
            self._sweep()

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self._values.pop(key, None)
            self._numbers.pop(key, None)
            self._logs.pop(key, None)

    async def delete_prefix(self, prefix: str) -> int:
        self._sweep()
        everything = {*self._values, *self._numbers, *self._logs}
        found = [key for key in everything if key.startswith(prefix)]
        await self.delete(*found)
        return len(found)

    async def increment(self, key: str, amounts: Mapping[str, int]) -> None:
        numbers = self._numbers.setdefault(key, {})
        for name, amount in amounts.items():
            numbers[name] = numbers.get(name, 0) + amount

    async def numbers(self, key: str) -> dict[str, int]:
        return dict(self._numbers.get(key, {}))

    async def append(self, log: str, value: bytes) -> LogId:
        now, last = int(self.clock() * 1000), self._last_id
        later = LogId(now, 1) if now > last.milliseconds else LogId(last[0], last.number + 1)
        self._last_id = later
        self._logs.setdefault(log, {})[later] = bytes(value)
        return later

    async def read_log(
        self, log: str, after: LogId = LOG_START, limit: int = 1000
    ) -> list[tuple[LogId, bytes]]:
        items = self._logs.get(log, {})
        found: list[tuple[LogId, bytes]] = []
        for position in reversed(items):  # from the end: mostly there is nothing new
            if position <= after:
                break
            found.append((position, items[position]))
        return found[: -limit - 1 : -1]

    async def remove(self, log: str, ids: Sequence[LogId]) -> None:
        for position in ids:
            self._logs.get(log, {}).pop(position, None)

    async def close(self) -> None:
        """There is nothing to close."""

    def _sweep(self) -> None:
        """Drops what has expired; the next time when there is twice as much as was left."""
        now = self.clock()
        self._values = {
            key: (value, expires)
            for key, (value, expires) in self._values.items()
            if expires is None or now < expires
        }
        self._sweep_at = max(64, 2 * len(self._values))
