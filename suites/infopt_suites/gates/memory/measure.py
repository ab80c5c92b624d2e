"""What the memory gate measures in the process of the models."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import ModuleEngine, StreamingEngine, WeighedEngine, able
from pytest_infopt.measure import dtype_named
from pytest_infopt.measure.weights import WeightChanges

from ..plans import LatencyPlan
from .changes import quantized_bytes, skipped, weight_changes, with_changes
from .footprint import MeasuredEngine, measure_memory, peak_resident_bytes, run_request
from .histograms import weight_histograms


class MemoryMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._tokens = pair.release.plan(LatencyPlan).request_tokens

    @remote
    def reference(self) -> Sample:
        """What the reference weighs."""
        return measure_memory(able(self._pair.reference, MeasuredEngine), self._tokens, batch=2)

    @remote
    def candidate(self) -> Sample:
        """What the candidate weighs, and what became of the reference's weights in it."""
        sample = measure_memory(
            able(self._pair.candidate, MeasuredEngine),
            self._tokens,
            batch=2,
            reference=able(self._pair.reference, MeasuredEngine),
        )
        return with_changes(sample, self._changes, self._pair.source)

    @remote
    def weight_tables(self) -> list[dict[str, Any]]:
        """Histograms of the weights before and after, and of their errors, where any changed."""
        if self._changes is None or not self._changes.changed:
            return []
        reference, candidate = (
            able(engine, ModuleEngine) for engine in (self._pair.reference, self._pair.candidate)
        )
        tables = weight_histograms(
            reference.module,
            candidate.module,
            skipped(self._pair.source),
            dtype_named(candidate.cache_dtype),
        )
        return [table.to_json() for table in tables]

    @cached_property
    def _changes(self) -> WeightChanges | None:
        return weight_changes(self._pair)

    @remote
    def plain_weight_bytes(self) -> int:
        """What the reference's weights weigh in the candidate's dtype, as its library loads them:
        some are kept wider on purpose."""
        with self._pair.reference_in(self._pair.candidate.dtype) as engine:
            return able(engine, WeighedEngine).memory().weight_bytes

    @remote
    def quantized_bytes(self, bits: float) -> int | None:
        """What the weights may weigh where each of those that are quantized may keep ``bits``."""
        return quantized_bytes(self._pair, bits)

    @remote
    def resident_bytes(self, of_candidate: bool) -> int:
        """Load one model, serve one request; this process's peak in bytes.

        Only a fresh process answers for the model alone: call it in one.
        """
        engine = self._pair.candidate if of_candidate else self._pair.reference
        run_request(able(engine, StreamingEngine), self._tokens)
        return peak_resident_bytes()
