"""What batchers whose tasks die do in virtual time, for the findings."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from infopt_suites.batching.clock import VirtualClock

Value = TypeVar("Value")


def run_deaf(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """What a coroutine returns on virtual time, whichever tasks have died meanwhile."""
    clock = VirtualClock()
    try:
        return clock.loop.run_until_complete(coroutine)
    finally:
        clock.close()
