"""What the self-check measures in the process of the models."""

from __future__ import annotations

from pytest_infopt import remote
from pytest_infopt.measure import SlowedEngine

from ..timing_measure import TimingMeasure


class SelfCheckMeasure(TimingMeasure):
    """Pairs of requests to the reference and to itself."""

    @remote
    def slow_candidate(self, factor: float) -> None:
        """Make the candidate do ``factor`` times its work: a regression that must be seen."""
        self._candidate = SlowedEngine(self._candidate, factor)
