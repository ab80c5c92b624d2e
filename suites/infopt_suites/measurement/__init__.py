"""Suites of meters: is what they tell of time and memory true?"""

from .latency import LatencyMeterSuite
from .machine import Machine
from .memory import MemoryMeterSuite
from .memory_space import DeviceMemory, HeapMemory, MemorySpace, PageMemory
from .protocol import (
    Chunk,
    LatencyMeter,
    LoadResult,
    MakeLatencyMeter,
    MakeMemoryMeter,
    MemoryMeter,
    MemoryReading,
    RequestTimes,
)

__all__ = [
    "Chunk",
    "DeviceMemory",
    "HeapMemory",
    "LatencyMeter",
    "LatencyMeterSuite",
    "LoadResult",
    "Machine",
    "MakeLatencyMeter",
    "MakeMemoryMeter",
    "MemoryMeter",
    "MemoryMeterSuite",
    "MemoryReading",
    "MemorySpace",
    "PageMemory",
    "RequestTimes",
]
