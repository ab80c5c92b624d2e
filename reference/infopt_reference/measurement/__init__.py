"""Measuring time and memory: definitions of a request's times, quantiles, meters, load."""

from .arrivals import TracedRequest, bursts, poisson, read_trace
from .latency_meter import LatencyMeter, collector_paused, no_device
from .load import LoadResult, LoadSummary, Objective, arrivals_of, closed_load, open_load
from .memory_meter import Allocator, MemoryMeter, MemoryReading
from .quantiles import quantile, sorted_quantile
from .request_times import RequestTiming
from .roofline import Roofline, measure_roofline

__all__ = [
    "Allocator",
    "LatencyMeter",
    "LoadResult",
    "LoadSummary",
    "MemoryMeter",
    "MemoryReading",
    "Objective",
    "RequestTiming",
    "Roofline",
    "TracedRequest",
    "arrivals_of",
    "bursts",
    "closed_load",
    "collector_paused",
    "measure_roofline",
    "no_device",
    "open_load",
    "poisson",
    "quantile",
    "read_trace",
    "sorted_quantile",
]
