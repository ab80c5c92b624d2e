"""What the tests of the caches share: requests, answers, and stores that misbehave."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hypothesis import strategies as st
from infopt_reference.caching import Answer, ChatRequest, MemoryStore, RedisStore

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self, now: float = 1e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class BrokenStore(MemoryStore):
    """A store that is down, all of it or in the named operations."""

    def __init__(self, *operations: str) -> None:
        super().__init__()
        self.operations = set(operations)

    def __getattribute__(self, name: str) -> Any:
        operations = object.__getattribute__(self, "__dict__").get("operations", ())
        if name in operations:
            return self._fail
        return super().__getattribute__(name)

    async def _fail(self, *arguments: Any, **options: Any) -> Any:
        raise ConnectionError("the store is down")


class Model:
    """A model that says something new each time, and counts how often it was asked."""

    def __init__(self, delay: float = 0.0, fails: int = 0) -> None:
        self.calls = 0
        self.delay = delay
        self.fails = fails

    async def __call__(self) -> Answer:
        self.calls += 1
        call = self.calls
        await asyncio.sleep(self.delay)
        if call <= self.fails:
            raise RuntimeError(f"call {call} fails")
        return Answer(f"answer {call}", prompt_tokens=3, completion_tokens=5)


def request(prompt: str = "Why?", **fields: Any) -> ChatRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "temperature": 0}
    return ChatRequest.from_mapping({**body, **fields})


def on_redis(url: str, scenario: Callable[[RedisStore], Awaitable[Any]]) -> Any:
    """The scenario's result, on a store with connections of its own."""

    async def run() -> Any:
        store = RedisStore(url, timeout=30.0)  # the machine may be busy
        try:
            return await scenario(store)
        finally:
            await store.close()

    return asyncio.run(run())
