"""Every way into a cache and every way out of it, as far as an implementation offers them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Collection, Mapping
from typing import Any

from ..wall_clock import on_virtual_time
from .counted import Computation
from .protocol import Answer, Request

# The method, and the capability that promises it.
WAYS_IN: Mapping[str, str | None] = {
    "set": None,
    "keep": "sync set",
    "get_or_compute": "compute",
    "get_or_compute_batch": "batch",
}
WAYS_OUT: Mapping[str, str | None] = {
    "get": None,
    "lookup": "sync",
    "get_or_compute": "compute",
    "get_or_compute_batch": "batch",
}


def offered(ways: Mapping[str, str | None], capabilities: Collection[str]) -> list[str]:
    """Those of the ways that an implementation with these capabilities has."""
    return [way for way, needed in ways.items() if needed is None or needed in capabilities]


def pairs_of_ways(capabilities: Collection[str]) -> list[tuple[str, str]]:
    """Every way in with every way out."""
    return [*itertools.product(offered(WAYS_IN, capabilities), offered(WAYS_OUT, capabilities))]


async def put(cache: Any, way: str, request: Request, answer: dict[str, Any]) -> list[Any]:
    """Keep an answer; returns the answers that its caller has in hand afterwards."""
    if way == "set":
        await cache.set(request, answer)
    elif way == "keep":
        await asyncio.to_thread(on_virtual_time(cache.keep), request, answer)
    elif way == "get_or_compute":
        return [answer, await cache.get_or_compute(request, Computation(answer))]
    else:
        answer["index"] = 0

        async def compute(requests: Any) -> list[Answer]:
            return [answer]

        return [answer, *await cache.get_or_compute_batch([request], compute)]
    return [answer]


async def find(cache: Any, way: str, request: Request) -> Answer | None:
    """The answer that is kept, without its place in a batch, or None; nothing is computed."""
    if way == "get":
        found = await cache.get(request)
    elif way == "lookup":
        found = await asyncio.to_thread(on_virtual_time(cache.lookup), request)
    else:
        found = await _find_computing(cache, way, request)
    if isinstance(found, dict):
        found.pop("index", None)
    return found  # type: ignore[no-any-return]  # whatever it is, it is compared with an answer


async def _find_computing(cache: Any, way: str, request: Request) -> Any:
    missing = _Missing()
    try:
        if way == "get_or_compute":
            found = await cache.get_or_compute(request, missing)
        else:
            (found,) = await cache.get_or_compute_batch([request], missing)
    except Exception:
        if missing.calls:
            return None
        raise
    return None if missing.calls else found


class _Missing:
    """Computes nothing, and says that it was asked to."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, *requests: Any) -> Any:
        self.calls += 1
        raise LookupError("nothing is kept for this request")
