"""Semantic cache whose search is the server's: the vector sets of Redis 8.

One vector set for each context holds the unit vectors as they are (``NOQUANT``); ``VSIM`` finds the
nearest by a graph (HNSW), so that a process keeps nothing in memory and a look-up grows with the
logarithm of the entries.

Contract. That of the semantic cache, but for three things: the search is approximate, and may
overlook the most similar entry; among equally similar ones the server chooses; the number of
entries is not limited here, but by the server's memory. A vector set lives as long as the longest
of its entries; an entry whose answer has ended is removed where it is met.

Leaves out: the search of RediSearch, which wants one index over all contexts and filters it.

Source: redis.io, "Redis vector sets", commands VADD, VSIM, VREM; Malkov, Yashunin 2018, "Efficient
and robust approximate nearest neighbor search using HNSW graphs".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .embedder import Embedder, Vectors
from .keys import VERSION
from .redis_store import RedisStore, milliseconds
from .semantic_cache import Question, SemanticCache
from .store import Store

NEAREST = 8  # that are asked for; the graph is searched the wider the more there are
FOR_EVER = 10 * 365 * 24 * 3600.0  # seconds: of a set with entries without end, so that GT applies


class VectorSetCache(SemanticCache):
    """A `SemanticCache` on a server with vector sets; see there for the arguments."""

    def __init__(
        self,
        store: RedisStore,
        embedder: Embedder,
        threshold: float = 0.95,
        namespace: str = "infopt",
        ttl: float | None = 3600.0,
        cache_sampled: bool = False,
    ) -> None:
        super().__init__(store, embedder, threshold, namespace, ttl, cache_sampled, None)
        self._redis = store

    async def _catch_up(self) -> None:
        """The server knows what others have added."""

    def _may_have(self, question: Question) -> bool:
        return True

    async def _similar(self, context: bytes, vector: Vectors) -> list[bytes]:
        options = ("WITHSCORES", "COUNT", NEAREST)
        reply = await self._redis.command(
            "VSIM", self._vectors_of(context), "FP32", vector.tobytes(), *options
        )
        # The server's score is (1 + cos) / 2 in float32, 0 to 1.
        rounding = self.embedder.dimension * float(np.finfo(np.float32).eps)
        return [
            bytes.fromhex(name.decode())
            for name, score in _scores(reply)
            if 2 * score - 1 >= self.threshold - rounding
        ]

    async def _add(self, question: Question, vector: Vectors, ttl: float | None) -> None:
        name = self._vectors_of(question.context)
        await self._redis.command(
            "VADD", name, "FP32", vector.tobytes(), question.entry.hex(), "NOQUANT"
        )
        lives = milliseconds(FOR_EVER if ttl is None else ttl)
        await self._redis.command("PEXPIRE", name, lives, "NX")  # a new set has no end
        await self._redis.command("PEXPIRE", name, lives, "GT")

    async def _drop(self, context: bytes, entries: Sequence[bytes]) -> None:
        for entry in entries:
            await self._redis.command("VREM", self._vectors_of(context), entry.hex())
        await self.store.delete(*map(self._answer_key, entries))

    def _vectors_of(self, context: bytes) -> str:
        return f"{self.prefix}v{VERSION}:vectors:{context.hex()}"


async def has_vector_sets(store: Store) -> bool:
    """Whether the store is a server that has vector sets (Redis 8)."""
    if not isinstance(store, RedisStore):
        return False
    from redis.exceptions import ResponseError

    try:
        await store.command("VCARD", "vector sets")
    except ResponseError:  # an unknown command
        return False
    return True


async def open_semantic_cache(
    store: Store, embedder: Embedder, threshold: float = 0.95, **options: Any
) -> SemanticCache:
    """A semantic cache that searches on the server where it can, else in a packed index.

    ``options`` are those of `VectorSetCache`. Raises what the server raises if it is down: which of
    the two it is cannot be told then.
    """
    if isinstance(store, RedisStore) and await has_vector_sets(store):
        return VectorSetCache(store, embedder, threshold, **options)
    return SemanticCache(store, embedder, threshold, **options)


def _scores(reply: Any) -> list[tuple[bytes, float]]:
    """Pairs of the reply, which is a mapping (RESP3) or one list (RESP2), best first."""
    if isinstance(reply, dict):
        return [(name, float(score)) for name, score in reply.items()]
    return [(name, float(score)) for name, score in zip(reply[::2], reply[1::2], strict=True)]
