"""A memory meter: what a call holds at most, and what calls leave behind.

A peak is a call's own only if the allocator's counter is set back before it, to what is held then,
and read behind it:

    synchronize · before = held · reset the peak · call · synchronize · peak, after = held

Sources: PyTorch, `torch.cuda.reset_peak_memory_stats`, `torch.cuda.max_memory_allocated`; Python,
`tracemalloc.reset_peak`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Allocator", "MemoryMeter", "MemoryReading"]


class Allocator(Protocol):
    """What counts bytes, such as `torch.cuda` with a device."""

    def synchronize(self) -> None:
        """Wait until what was queued is done: it may allocate too."""

    def allocated(self) -> int:
        """Bytes that are held now."""

    def peak_allocated(self) -> int:
        """The most bytes that were held since the last reset."""

    def reset_peak(self) -> None:
        """Let the peak be what is held now."""


@dataclass(frozen=True)
class MemoryReading:
    """Bytes held before a call, at most during it, and behind it; each counts all that is held."""

    before_bytes: int
    peak_bytes: int
    after_bytes: int


class MemoryMeter:
    """Reads an allocator around calls."""

    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator

    def measure(self, call: Callable[[], Any]) -> MemoryReading:
        """What one call holds."""
        allocator = self._allocator
        allocator.synchronize()
        before = allocator.allocated()
        allocator.reset_peak()
        call()
        allocator.synchronize()
        return MemoryReading(before, allocator.peak_allocated(), allocator.allocated())

    def growth(self, call: Callable[[], Any], calls: int, warmup: int) -> float:
        """Bytes that each of ``calls`` calls leaves behind, on average; ``warmup`` calls before
        them may fill caches and make workspaces."""
        for _ in range(warmup):
            call()
        self._allocator.synchronize()
        before = self._allocator.allocated()
        for _ in range(calls):
            call()
        self._allocator.synchronize()
        return (self._allocator.allocated() - before) / calls
