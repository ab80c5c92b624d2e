"""Memory: sizes by category, peaks of fixed work, a process's resident peak."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
import torch
from infopt_suites.gates.memory.footprint import (
    measure_memory,
    peak_resident_bytes,
    resident_pair,
    run_request,
)
from measure_fakes import ToyTransformer

from pytest_infopt.engines.base import Capability, MemoryFootprint, TokenEvent
from pytest_infopt.gates.registry import gate_named


class Weighed(ToyTransformer):
    """Claims a cache of 40 bytes a token, holds ``held``; its allocator peaks follow a script."""

    def __init__(self, held: int = 40, peaks: Sequence[int] = ()) -> None:
        super().__init__(torch.float32)
        self.capabilities = frozenset({Capability.KV_SIZE, Capability.MEMORY, Capability.STREAM})
        self.held = held
        self.peaks = list(peaks)
        self.events: list[str] = []

    def kv_cache_bytes(self, tokens: int, batch: int = 1) -> int:
        return self.held * tokens * batch

    def predicted_kv_bytes(self, tokens: int, batch: int = 1) -> int | None:
        return 40 * tokens * batch

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        self.events.append(f"run {len(prompt_ids)}+{max_new_tokens}")
        yield from (TokenEvent(1, 0.0) for _ in range(max_new_tokens))

    def reset_peaks(self) -> None:
        self.events.append("reset")

    def memory(self) -> MemoryFootprint:
        self.events.append("read")
        if not self.peaks:
            return MemoryFootprint(1000, 7)
        peak = self.peaks[min(self.events.count("reset"), len(self.peaks) - 1)]
        return MemoryFootprint(1000, 7, peak, 2 * peak)


def test_sizes_are_those_of_the_engine() -> None:
    sample = measure_memory(Weighed(held=44), tokens=10, batch=3)
    assert sample.values == {
        "weight_bytes": 1000,
        "buffer_bytes": 7,
        "kv_bytes_per_token": 44,
        "kv_prediction_error": 4 * 10 * 3,
    }
    names = {metric.name for metric in gate_named("memory").metrics}
    assert set(sample.values) <= names


def test_a_formula_that_the_reference_breaks_too_judges_nobody() -> None:
    """Both hold 44 bytes a token where the formula says 40: it is the formula that is wrong."""
    sample = measure_memory(Weighed(held=44), tokens=10, batch=3, reference=Weighed(held=44))
    assert "kv_prediction_error" not in sample.values
    assert sample.values["kv_bytes_per_token"] == 44
    reason = sample.details["not_judged"]["kv_prediction_error"]
    assert "formula unknown" in reason
    assert "the reference's own cache differs from it too, by 120 bytes" in reason
    sound = measure_memory(Weighed(held=44), tokens=10, batch=3, reference=Weighed(held=40))
    assert sound.values["kv_prediction_error"] == 4 * 10 * 3


def test_without_a_formula_the_cache_is_weighed_all_the_same() -> None:
    class Unknown(Weighed):
        def predicted_kv_bytes(self, tokens: int, batch: int = 1) -> int | None:
            return None

    sample = measure_memory(Unknown(), tokens=10)
    assert "kv_prediction_error" not in sample.values
    assert sample.values["kv_bytes_per_token"] == 40
    assert "no formula is known" in sample.details["not_judged"]["kv_prediction_error"]


def test_without_a_cache_the_weights_are_weighed() -> None:
    engine = Weighed()
    engine.capabilities = frozenset({Capability.MEMORY, Capability.STREAM})
    sample = measure_memory(engine, tokens=10)
    assert set(sample.values) == {"weight_bytes", "buffer_bytes"}
    assert sample.details["notes"] == ["the model keeps no cache that can be weighed"]


def test_peaks_are_read_after_a_reset_and_one_fixed_request() -> None:
    """Nothing that came before, nor the first request's workspaces, may be part of the peak."""
    engine = Weighed(peaks=[9999, 500, 500])
    sample = measure_memory(engine, tokens=10)
    assert engine.events == ["read", "run 6+4"] + ["reset", "run 6+4", "read"] * 2
    assert sample.values["peak_allocated_bytes"] == 500
    assert sample.values["peak_reserved_bytes"] == 1000


def test_peaks_that_differ_between_runs_are_both_kept() -> None:
    sample = measure_memory(Weighed(peaks=[0, 500, 600]), tokens=10)
    assert sample.values["peak_allocated_bytes"] == 600
    assert [run["peak_allocated_bytes"] for run in sample.details["peak_runs"]] == [500, 600]


def test_a_request_without_prompt_or_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        run_request(Weighed(), 1)


_PEAK = (
    "from infopt_suites.gates.memory.footprint import peak_resident_bytes as peak;"
    "before = peak(); block = bytearray(b'x') * {size}; del block; print(before, peak())"
)


def _peaks_of_a_process(size: int) -> tuple[int, int]:
    command = [sys.executable, "-c", _PEAK.format(size=size)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    before, after = output.split()
    return int(before), int(after)


def test_the_resident_peak_remembers_what_was_given_back() -> None:
    size = 96 * 2**20
    before, after = _peaks_of_a_process(size)
    page_noise = 2**21  # the interpreter's own pages in the meantime
    assert size - page_noise <= after - before <= size + page_noise


def test_the_resident_peak_of_a_new_process_is_not_its_parents() -> None:
    ballast = torch.ones(64 * 2**20)  # 256 MiB
    before, _ = _peaks_of_a_process(1)
    assert before < ballast.nbytes < peak_resident_bytes()


def test_a_pair_of_peaks_is_a_log_ratio() -> None:
    sample = resident_pair(200, 100, "process-3")
    assert sample.values == {"host_peak_rss_ratio": math.log(0.5)}
    with pytest.raises(ValueError, match="above 0"):
        resident_pair(0, 100, "process-4")
