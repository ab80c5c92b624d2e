"""Memory of which is known what is held: of a device that counts it, or of this process."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from typing import Any, Protocol

Block = Any


class MemorySpace(Protocol):
    """What the calls of `MemoryMeterSuite` allocate from."""

    def allocate(self, nbytes: int) -> Block:
        """Hold so many bytes more."""

    def free(self, block: Block) -> None:
        """Give a block back."""


class DeviceMemory:
    """A device's memory with the counters of `torch.cuda`: what is given back stays reserved, in
    segments, for whoever asks next. Queued calls are made when the host waits for the device."""

    SEGMENT = 4096

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._next = 0
        self._queue: list[Callable[[], None]] = []
        self._allocated = self._peak = self._reserved = self._peak_reserved = 0
        self._of_others = 0

    def allocate(self, nbytes: int) -> int:
        self._next += 1
        self._sizes[self._next] = nbytes
        self._allocated += nbytes
        segments = -(-self._allocated // self.SEGMENT)
        self._reserved = max(self._reserved, segments * self.SEGMENT)
        self._peak = max(self._peak, self._allocated)
        self._peak_reserved = max(self._peak_reserved, self._reserved)
        return self._next

    def free(self, block: int) -> None:
        self._allocated -= self._sizes.pop(block)

    def launch(self, call: Callable[[], None]) -> None:
        """Queue a call, which allocates when the device gets to it."""
        self._queue.append(call)

    def synchronize(self) -> None:
        """Wait until nothing is queued."""
        while self._queue:
            self._queue.pop(0)()

    def allocated(self) -> int:
        """Bytes that are held now, as `torch.cuda.memory_allocated` tells; it does not wait."""
        return self._allocated

    def peak_allocated(self) -> int:
        """The most bytes that were held since the last reset."""
        return self._peak

    def reset_peak(self) -> None:
        """Let both peaks be what they count now."""
        self._peak, self._peak_reserved = self._allocated, self._reserved

    def reserved(self) -> int:
        """Bytes of segments, held or not."""
        return self._reserved

    def peak_reserved(self) -> int:
        """The most of them since the last reset."""
        return self._peak_reserved

    def used(self) -> int:
        """Bytes of segments of all processes, as `torch.cuda.mem_get_info` tells."""
        return self._reserved + self._of_others

    def let_others_hold(self, nbytes: int) -> None:
        """Let another process hold so many bytes."""
        self._of_others = nbytes


class HeapMemory:
    """This process's heap: a block is an object of Python, which `tracemalloc` knows of."""

    def allocate(self, nbytes: int) -> bytearray:
        return bytearray(nbytes)

    def free(self, block: bytearray) -> None:
        block.clear()


class PageMemory:
    """This process's pages: those of a block are touched, so that they are resident."""

    def allocate(self, nbytes: int) -> mmap.mmap:
        block = mmap.mmap(-1, nbytes)
        for place in range(0, nbytes, mmap.PAGESIZE):
            block[place] = 1
        return block

    def free(self, block: mmap.mmap) -> None:
        block.close()


SPACES: Mapping[str, Callable[[], MemorySpace]] = {
    "device": DeviceMemory,
    "heap": HeapMemory,
    "pages": PageMemory,
}
