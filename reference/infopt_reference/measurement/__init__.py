"""Measuring time and memory: definitions of a request's times, quantiles, meters."""

from .latency_meter import LatencyMeter, collector_paused, no_device
from .memory_meter import Allocator, MemoryMeter, MemoryReading
from .quantiles import quantile
from .request_times import RequestTiming

__all__ = [
    "Allocator",
    "LatencyMeter",
    "MemoryMeter",
    "MemoryReading",
    "RequestTiming",
    "collector_paused",
    "no_device",
    "quantile",
]
