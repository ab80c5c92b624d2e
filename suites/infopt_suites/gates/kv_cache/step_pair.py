"""What a decoding step takes with the KV cache, and without.

PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import math
import time
from statistics import fmean

from pytest_infopt import Sample
from pytest_infopt.engines.base import CachedEngine

from .gate import SPEED_UP

TIMED_STEPS = 2  # whose mean counts


def measure_step_pair(engine: CachedEngine, length: int, cached_first: bool, unit: str) -> Sample:
    """A step behind ``length`` tokens both ways, the cached one first or last.

    ``kv_step_speed_up`` is the natural log of the time without the cache over that with it.
    """
    started = time.perf_counter()

    def cached() -> float:
        return engine.cache_readings([length], 1, TIMED_STEPS)[0].step_seconds

    def uncached() -> float:
        return fmean(engine.uncached_step_seconds(length) for _ in range(TIMED_STEPS))

    sides = (cached, uncached) if cached_first else (uncached, cached)
    seconds = {side: side() for side in sides}
    return Sample(
        unit=unit,
        weight=1,
        values={SPEED_UP.name: math.log(seconds[uncached] / seconds[cached])},
        details={
            "cached_first": cached_first,
            "cached_seconds": seconds[cached],
            "uncached_seconds": seconds[uncached],
        },
        seconds=time.perf_counter() - started,
    )
