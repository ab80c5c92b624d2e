"""What a cache has really put into a Redis server: its keys, their bytes, their age."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import redis


@cache
def _client_of(url: str) -> redis.Redis:
    """One for all properties: to connect takes longer than most of them take."""
    return redis.Redis.from_url(url)


class RedisEntries:
    """The keys with a namespace in their name, past the cache that wrote them."""

    def __init__(self, url: str, namespace: str) -> None:
        self._client = _client_of(url)
        self.namespace = namespace

    def keys(self) -> list[bytes]:
        return sorted(self._client.scan_iter(match=f"*{self.namespace}*", count=1000))

    def damage(self, change: bytes | None) -> int:
        """Put other bytes into each string, field of a hash and item of a list; None halves them.

        A JSON document is replaced by what the bytes say, if they say anything, else by null.

        Keys live on as long as they would have. Returns how many values were changed.
        """
        damaged = 0
        for key in self._of_type(b"string"):
            value = self._client.get(key)
            assert isinstance(value, bytes)
            self._client.set(key, _damaged(value, change), keepttl=True)
            damaged += 1
        for key in self._of_type(b"hash"):
            fields = self._client.hgetall(key)
            assert isinstance(fields, dict)
            for field, value in fields.items():
                self._client.hset(key, field, _damaged(value, change))  # type: ignore[arg-type]  # bytes are fine
                damaged += 1
        for key in self._of_type(b"list"):
            items = self._client.lrange(key, 0, -1)
            assert isinstance(items, list)
            for index, item in enumerate(items):
                self._client.lset(key, index, _damaged(item, change))  # type: ignore[arg-type]  # bytes are fine
                damaged += 1
        for key in self._of_type(b"ReJSON-RL"):
            self._client.json().set(key.decode(), "$", _as_json(change))
            damaged += 1
        return damaged

    def retype(self) -> int:
        """Put a list in the place of every key."""
        keys = self.keys()
        for key in keys:
            self._client.delete(key)
            self._client.rpush(key, b"not", b"what", b"was", b"there")
        return len(keys)

    def put_foreign(self, names: list[str]) -> None:
        for name in names:
            self._client.set(name, b"another's")

    def missing(self, names: list[str]) -> list[str]:
        return [name for name in names if not self._client.exists(name)]

    def age(self, seconds: float) -> None:
        """Let that much of every key's time to live be over."""
        for key in self.keys():
            left = self._client.pttl(key)
            assert isinstance(left, int)
            if left >= 0:
                # Redis deletes what ends now or before.
                self._client.pexpire(key, max(left - round(seconds * 1000), 0))

    def remove(self, names: list[str] | None = None) -> None:
        """Delete these keys, or all of the namespace."""
        for key in self.keys() if names is None else names:
            self._client.unlink(key)

    def _of_type(self, kind: bytes) -> list[bytes]:
        return [key for key in self.keys() if self._client.type(key) == kind]


def _damaged(value: bytes, change: bytes | None) -> bytes:
    return value[: len(value) // 2] if change is None else change


def _as_json(change: bytes | None) -> Any:
    try:
        return json.loads(change or b"")
    except ValueError:
        return None
