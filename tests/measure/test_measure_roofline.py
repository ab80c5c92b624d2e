"""Passes beside a machine's roofline, and steps with a KV cache and without: on scripted times."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from infopt_reference.measurement import Roofline
from infopt_suites.gates.kv_cache.step_pair import TIMED_STEPS, measure_step_pair
from infopt_suites.gates.latency import roofline as measured_roofline
from infopt_suites.gates.latency.roofline import SMALLEST, passes_of, roofline_table
from weight_layouts import LAYOUTS, VOCABULARY, make_layout

from pytest_infopt.engines.base import CacheReading, MemoryFootprint

TOKENS, STORED, KV = 16, SMALLEST, 8  # bytes of all weights, and of the cache by token


class ScriptedEngine:
    """A model whose passes take a millisecond for each row and token."""

    device, cache_dtype = "cpu", "float32"

    def __init__(self, nbytes: int = STORED) -> None:
        self.module = make_layout("llama")
        self._nbytes = nbytes

    def memory(self) -> MemoryFootprint:
        return MemoryFootprint(self._nbytes, 0)

    def kv_cache_bytes(self, tokens: int, batch: int = 1) -> int:
        return KV * tokens * batch

    def pass_seconds(self, batch: int, context: int, tokens: int) -> float:
        return 1e-3 * batch * tokens


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Roofline:
    found = Roofline(peak=1e9, bandwidth=1e6)
    monkeypatch.setattr(measured_roofline, "measure_roofline", lambda device, dtype, rounds: found)
    return found


def test_rates_and_intensities_are_those_of_the_work_and_the_bytes(machine: Roofline) -> None:
    table = roofline_table(ScriptedEngine(), ScriptedEngine(STORED // 4), TOKENS)
    assert table is not None
    body, head = LAYOUTS["llama"].weights, VOCABULARY * make_layout("llama").config.hidden_size
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    for model, stored in (("reference", STORED), ("candidate", STORED // 4)):
        for each in passes_of(TOKENS):
            intensity, rate, roof, share = rows[model, each.name]
            work = 2 * each.rows * (body * each.tokens + head)
            assert intensity == pytest.approx(
                work / (stored + KV * (each.context + each.tokens) * each.rows)
            )
            assert rate == pytest.approx(work / (1e-3 * each.rows * each.tokens) / 1e9)
            assert roof == pytest.approx(machine.roof(intensity) / 1e9)
            assert share == pytest.approx(rate / roof)
    assert rows["candidate", "decode"][0] > rows["reference", "decode"][0]


def test_a_reference_without_known_matrices_has_no_roofline(machine: Roofline) -> None:
    engine = ScriptedEngine()
    engine.module.model.layers = torch.nn.ModuleList()
    assert roofline_table(engine, engine, TOKENS) is None


def test_a_model_whose_passes_are_all_calls_has_no_roofline(machine: Roofline) -> None:
    small = ScriptedEngine(SMALLEST - 1)
    assert roofline_table(small, small, TOKENS) is None


class SteppingEngine:
    """Steps that take 2 ms with the cache, and 3, 5, 3, … without it; counts what is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def cache_readings(
        self, lengths: Sequence[int], batch: int = 1, steps: int = 1
    ) -> list[CacheReading]:
        self.asked.append(f"cached {list(lengths)} {steps}")
        return [CacheReading(lengths[-1], batch, 0, 2e-3)]

    def uncached_step_seconds(self, tokens: int) -> float:
        self.asked.append(f"uncached {tokens}")
        return 3e-3 if self.asked.count(f"uncached {tokens}") % 2 else 5e-3


@pytest.mark.parametrize("cached_first", [True, False])
def test_a_pair_of_steps_is_the_log_of_what_the_cache_saves(cached_first: bool) -> None:
    engine = SteppingEngine()
    sample = measure_step_pair(engine, 64, cached_first, "pair-0")  # type: ignore[arg-type]
    assert sample.values == {"kv_step_speed_up": pytest.approx(math.log(4 / 2))}
    cached, uncached = [f"cached [64] {TIMED_STEPS}"], ["uncached 64"] * TIMED_STEPS
    assert engine.asked == (cached + uncached if cached_first else uncached + cached)
