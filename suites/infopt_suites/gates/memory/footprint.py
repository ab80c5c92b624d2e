"""What a model weighs: weights, buffers, KV cache, allocator peaks, a process's resident memory."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Protocol

from pytest_infopt import Sample
from pytest_infopt.engines.base import (
    Capability,
    KVSizeEngine,
    MemoryFootprint,
    StreamingEngine,
    WeighedEngine,
    able,
)

from ..kv_formula import FormulaCheck

PREDICTION = "kv_prediction_error"
_NEW_TOKENS = 4
_STATUS = Path("/proc/self/status")


class MeasuredEngine(WeighedEngine, StreamingEngine, Protocol):
    """What the memory gate takes."""


def measure_memory(
    engine: MeasuredEngine, tokens: int, batch: int = 1, reference: MeasuredEngine | None = None
) -> Sample:
    """Bytes by category, in the metrics' units; CUDA peaks where the device has them.

    Peaks are those of one request of ``tokens`` tokens, with the weights, which are allocated all
    the while. The request runs twice after a first one that pays for lazily made workspaces: where
    the two peaks differ, the larger is the value and ``details["peak_runs"]`` has both. The KV
    cache is weighed where there is one, and its formula is the one that the ``reference`` keeps.
    """
    started = time.perf_counter()
    values, details = _kv_bytes(engine, tokens, batch, reference)
    footprint = engine.memory()
    values["weight_bytes"] = footprint.weight_bytes
    values["buffer_bytes"] = footprint.buffer_bytes
    if footprint.peak_allocated_bytes is not None:
        runs = _peak_runs(engine, tokens)
        values |= {name: max(run[name] for run in runs) for name in runs[0]}
        details["peak_runs"] = runs
    seconds = time.perf_counter() - started
    return Sample(engine.name, 1, values, details=details, seconds=seconds)


def _kv_bytes(
    engine: MeasuredEngine, tokens: int, batch: int, reference: MeasuredEngine | None
) -> tuple[dict[str, float], dict[str, object]]:
    """What the KV cache holds, and what a sample says of it."""
    details: dict[str, object] = {"tokens": tokens, "batch": batch}
    if Capability.KV_SIZE not in engine.capabilities:
        reason = "the model keeps no cache that can be weighed"
        return {}, {**details, "not_judged": {PREDICTION: reason}, "notes": [reason]}
    sized = able(engine, KVSizeEngine)
    held = sized.kv_cache_bytes(tokens, batch)
    has_own = reference is not None and Capability.KV_SIZE in reference.capabilities
    check = FormulaCheck(sized, able(reference, KVSizeEngine) if reference and has_own else None)
    check.add(tokens, batch, held)
    details |= {"kv_bytes": held, "kv_bytes_predicted": check.predicted[0]}
    values = {"kv_bytes_per_token": held / (tokens * batch), **check.values(PREDICTION)}
    return values, {**details, **check.details(PREDICTION)}


def _peak_runs(engine: MeasuredEngine, tokens: int) -> list[dict[str, float]]:
    run_request(engine, tokens)
    runs = []
    for _ in range(2):
        engine.reset_peaks()
        run_request(engine, tokens)
        runs.append(_peaks(engine.memory()))
    return runs


def _peaks(footprint: MemoryFootprint) -> dict[str, float]:
    peaks = {
        "peak_allocated_bytes": footprint.peak_allocated_bytes,
        "peak_reserved_bytes": footprint.peak_reserved_bytes,
    }
    return {name: peak for name, peak in peaks.items() if peak is not None}


def run_request(engine: StreamingEngine, tokens: int) -> None:
    """A fixed workload: a prompt and a few generated tokens, ``tokens`` in all."""
    new_tokens = min(_NEW_TOKENS, tokens - 1)
    if new_tokens < 1:
        raise ValueError(f"a request of {tokens} tokens has no prompt or no answer; use at least 2")
    prompt = [1 + index % (engine.vocabulary - 1) for index in range(tokens - new_tokens)]
    for _ in engine.stream(prompt, new_tokens):
        pass


def peak_resident_bytes() -> int:
    """The most resident memory that this process has had since it started.

    VmHWM of /proc (proc_pid_status(5)), which an exec starts anew: getrusage's ru_maxrss, the
    fallback, is inherited from the parent on Linux and would report pytest's own peak.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB


def resident_pair(reference_bytes: int, candidate_bytes: int, unit: str) -> Sample:
    """Peaks of two fresh processes as a paired sample, the natural log of their ratio."""
    if min(reference_bytes, candidate_bytes) <= 0:
        raise ValueError(
            f"{unit}: peaks of {reference_bytes} and {candidate_bytes} bytes; both must be above 0"
        )
    return Sample(
        unit=unit,
        weight=1,
        values={"host_peak_rss_ratio": math.log(candidate_bytes / reference_bytes)},
        details={"reference_bytes": reference_bytes, "candidate_bytes": candidate_bytes},
    )
