"""Callers of a batch whose function ends with CancelledError, for the findings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from virtual_time import run_deaf

Load = Callable[[int], Awaitable[Any]]


async def cancelled(keys: list[int]) -> list[int]:
    """A batch function whose own request was cancelled, as an HTTP client's pool does it."""
    raise asyncio.CancelledError


def callers_done(make_load: Callable[[], Load]) -> list[bool]:
    """Whether each of two callers has an outcome, a thousand seconds after the batch has ended."""

    async def ask() -> list[bool]:
        load = make_load()
        callers = [asyncio.ensure_future(load(key)) for key in (1, 2)]
        await asyncio.sleep(1000.0)
        return [caller.done() for caller in callers]

    return run_deaf(ask())
