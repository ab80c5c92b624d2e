"""The noise floor during a run: measured where that is asked for, heeded where it is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from ..gates.registry import metrics
from ..metrics.budget import Budget
from ..release import Candidate, Release
from ..results.verdict import Judgement
from ..store.baselines import Provenance
from ..store.noise_floor import Floor, NoiseFloors, above_noise, limit_of, refusal
from .baseline_policy import BaselinePolicy


class MeasuredNoise(Protocol):
    """A metric's margin when only ``cause`` was changed; ``factor`` times it is proposed as limit.
    ``dtype`` is that of the candidates it is about, "" for all."""

    @property
    def metric(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def margin(self) -> float: ...
    @property
    def factor(self) -> float: ...
    @property
    def dtype(self) -> str: ...


class NoisePolicy:
    """What the floors in a file say of a run's limits."""

    def __init__(self, floors: NoiseFloors, baselines: BaselinePolicy) -> None:
        self._floors = floors
        self._baselines = baselines  # which know the device and the reference

    def keep(self, subject: Candidate, noise: Iterable[MeasuredNoise]) -> list[Floor]:
        """Write the floors of the device that ``subject`` was measured on. Raises NoiseFloorError
        where that cannot be done."""
        here = self._baselines.provenance[subject.name]
        found = [
            Floor(
                metric=each.metric,
                dtype=each.dtype,
                margin=each.margin,
                proposed=limit_of(metrics()[each.metric], each.factor * each.margin),
                cause=each.cause,
                device=here.device,
                model_fingerprint=here.model_fingerprint,
                run_id=here.run_id,
                date=here.date,
            )
            for each in noise
        ]
        self._floors.keep(found)
        return found

    def below(self, release: Release, subject: Candidate) -> list[str]:
        """A sentence on each limit of a candidate that is below the floor."""
        here = self._baselines.provenance[subject.name]
        return [
            f"{candidate.name}: {why}"
            for candidate in release.candidates
            for budget in candidate.budgets.values()
            if (why := refusal(budget, self._floor(budget, here, candidate.source.dtype)))
        ]

    def check(
        self, candidate: Candidate, judgement: Judgement, budgets: Mapping[str, Budget]
    ) -> Judgement:
        """The judgement, where baseline and noise floor let it stand; else INCONCLUSIVE."""
        judgement = self._baselines.check(candidate, judgement)
        here, budget = self._baselines.provenance.get(candidate.name), budgets.get(judgement.metric)
        if budget is None or budget.relative or here is None:
            return judgement
        return above_noise(judgement, budget, self._floor(budget, here, here.dtype))

    def _floor(self, budget: Budget, here: Provenance, dtype: str) -> Floor | None:
        if budget.relative:
            return None
        return self._floors.of(budget.metric.name, here.device, dtype, here.model_fingerprint)
