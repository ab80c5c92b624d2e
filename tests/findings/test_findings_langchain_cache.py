"""langchain-core 1.8: InMemoryCache gives its own objects away, and evicts for no new key.

The oldest entry goes as soon as the cache is full, although the key that is stored again needs no
room.
"""

from __future__ import annotations

import pytest

caches = pytest.importorskip("langchain_core.caches")
outputs = pytest.importorskip("langchain_core.outputs")


def test_storing_a_key_anew_evicts_another() -> None:
    cache = caches.InMemoryCache(maxsize=2)
    for prompt in ("first", "second", "second"):
        cache.update(prompt, "model", [outputs.Generation(text=prompt)])
    assert cache.lookup("first", "model") is None


def test_a_callers_change_reaches_the_next_caller() -> None:
    cache = caches.InMemoryCache()
    cache.update("prompt", "model", [outputs.Generation(text="kept")])
    cache.lookup("prompt", "model")[0].text = "changed"
    assert cache.lookup("prompt", "model")[0].text == "changed"
