"""What the memory gate measures in the process of the models."""

from __future__ import annotations

from typing import cast

from pytest_infopt import ModelPair, Sample, remote

from ..plans import LatencyPlan
from .footprint import WeighedEngine, measure_memory, peak_resident_bytes, run_request


class MemoryMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._tokens = pair.release.plan(LatencyPlan).request_tokens

    @remote
    def reference(self) -> Sample:
        """What the reference weighs."""
        return measure_memory(cast(WeighedEngine, self._pair.reference), self._tokens, batch=2)

    @remote
    def candidate(self) -> Sample:
        """What the candidate weighs."""
        return measure_memory(cast(WeighedEngine, self._pair.candidate), self._tokens, batch=2)

    @remote
    def resident_bytes(self, of_candidate: bool) -> int:
        """Load one model, serve one request; this process's peak in bytes.

        Only a fresh process answers for the model alone: call it in one.
        """
        engine = self._pair.candidate if of_candidate else self._pair.reference
        run_request(cast(WeighedEngine, engine), self._tokens)
        return peak_resident_bytes()
