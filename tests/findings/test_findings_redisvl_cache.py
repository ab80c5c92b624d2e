"""redisvl 0.28: each hit of the SemanticCache sets the time to live anew (redis-vl-python#603).

An answer that is asked for often enough never ends, however old it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from redis_stack_server import redis_stack

llm = pytest.importorskip("redisvl.extensions.cache.llm")
vectorize = pytest.importorskip("redisvl.utils.vectorize")
TTL = 2


@pytest.fixture
def server() -> Iterator[Any]:
    yield from redis_stack()


def test_hits_keep_an_answer_alive(server: Any) -> None:
    embedder = vectorize.CustomTextVectorizer(embed=lambda text: [1.0, 0.0, 0.0])
    cache = llm.SemanticCache(name="f", ttl=TTL, vectorizer=embedder, redis_url=server.url)
    cache.store("question", "answer")
    ends = time.monotonic() + 2 * TTL
    while time.monotonic() < ends:
        assert cache.check("question"), "not even as long as it should live"
        time.sleep(TTL / 4)
    assert cache.check("question")
    cache.disconnect()
