"""The event loop of a load: a client measures a server only while its own work is small."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from importlib.util import find_spec
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_load(load: Coroutine[Any, Any, Result]) -> Result:
    """What a load comes to. uvloop runs it where it is installed (extra ``load``): a token beside
    torch then takes some 20 µs of the client instead of 25, and a connection half the time."""
    factory = None
    if find_spec("uvloop") is not None:
        import uvloop

        factory = uvloop.new_event_loop
    gc.freeze()  # the garbage collector would go through all of torch again and again
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(load)
    finally:
        gc.unfreeze()
