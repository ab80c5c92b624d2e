"""What gates on time measure in the process of the models."""

from __future__ import annotations

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import StreamingEngine, able
from pytest_infopt.errors import NotSupportedError
from pytest_infopt.measure import measure_pair, warm_up

from .plans import LatencyPlan


def refuse_turns(pair: ModelPair) -> None:
    """Raises NotSupportedError where reference and candidate are never up together."""
    if pair.in_turns:
        raise NotSupportedError(
            "times are compared in pairs, and the servers take turns; leave server.in_turns out "
            "where the device holds both, or switch the limits of time off"
        )


class TimingMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(LatencyPlan)
        self._reference = able(pair.reference, StreamingEngine)
        self._candidate = able(pair.candidate, StreamingEngine)
        self._warm = False

    @remote
    def warm_up(self) -> None:
        """Untimed calls on the shapes to be timed, both models, unless they were made before."""
        if self._warm:
            return
        self._warm = True
        for engine in (self._reference, self._candidate):
            warm_up(engine, self._request(0), self._plan.new_tokens, self._plan.warmup)

    @remote
    def pair(self, index: int, candidate_first: bool) -> Sample:
        """One request to each model, timed."""
        return measure_pair(
            self._reference,
            self._candidate,
            self._request(index),
            self._plan.new_tokens,
            candidate_first,
            f"pair-{index}",
        )

    def _request(self, index: int) -> list[int]:
        return self._pair.request(self._plan.prompt_tokens, index)
