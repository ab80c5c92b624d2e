"""What the latency gate measures in the process of the models."""

from __future__ import annotations

from typing import Any

from pytest_infopt import ModelPair, remote
from pytest_infopt.engines.base import able, capabilities_of

from ..timing_measure import TimingMeasure, refuse_turns
from .roofline import RooflineEngine, roofline_table


class LatencyMeasure(TimingMeasure):
    """Pairs of requests to reference and candidate."""

    def __init__(self, pair: ModelPair) -> None:
        refuse_turns(pair)
        super().__init__(pair)

    @remote
    def roofline(self) -> dict[str, Any] | None:
        """Both models' passes beside what the machine can do; None where an engine lacks
        something."""
        engines = (self._pair.reference, self._pair.candidate)
        if any(capabilities_of(RooflineEngine) - engine.capabilities for engine in engines):
            return None
        reference, candidate = (able(engine, RooflineEngine) for engine in engines)
        table = roofline_table(reference, candidate, self._plan.prompt_tokens)
        return None if table is None else table.to_json()
