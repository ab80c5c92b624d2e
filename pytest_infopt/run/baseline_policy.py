"""The committed baseline during a run: budgets no looser than it, and its update at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import pytest

from ..errors import ConfigurationError
from ..gates.registry import gates, metrics
from ..metrics.budget import Budget
from ..options import resolve
from ..release import Candidate, Release
from ..results.gate_result import GateResult
from ..results.verdict import Judgement, Verdict
from ..store.baselines import BaselineError, Baselines, Entry, Provenance, far_bound
from ..version import __version__

_SOFTWARE = ("torch", "transformers")  # of the environment, to be told beside a limit


@dataclass
class BaselinePolicy:
    """The baselines file, if the release has one, and what this run may do to it.

    Limits are looked up by device: ``device`` is the one asked for until the models tell theirs.
    """

    baselines: Baselines | None = None
    tighten: bool = False
    loosen: str | None = None
    device: str = "cpu"
    provenance: dict[str, Provenance] = field(default_factory=dict)

    @classmethod
    def of(cls, config: pytest.Config, release: Release) -> Self:
        """Raises ConfigurationError for a damaged file, or an update without a file to update."""
        tighten, reason = resolve(config, "baseline_update"), resolve(config, "baseline_loosen")
        if release.baseline is None:
            if tighten or reason:
                raise ConfigurationError(
                    "--infopt-baseline-update and --infopt-baseline-loosen change a baselines "
                    "file: name it with --infopt-baseline PATH"
                )
            return cls()
        if not (tighten or release.baseline.exists()):
            raise ConfigurationError(
                f"baseline {release.baseline} does not exist; begin it with "
                "--infopt-baseline-update, or name another with --infopt-baseline"
            )
        try:
            baselines = Baselines.load(release.baseline)
        except BaselineError as error:
            raise ConfigurationError(str(error)) from error
        return cls(baselines, tighten, reason)

    def describe(
        self, candidate: str, description: Mapping[str, Any], run_id: str, date: str
    ) -> None:
        """Learn where the numbers of this candidate come from."""
        environment, reference = description["environment"], description["reference"]
        self.device = environment["device"]
        self.provenance[candidate] = Provenance(
            run_id=run_id,
            date=date,
            version=__version__,
            model_fingerprint=reference["fingerprint"],
            corpus_fingerprint=description["corpus"],
            dtype=description["candidate"]["dtype"],
            device=environment["device"],
            software=", ".join(
                f"{name} {environment[name]}" for name in _SOFTWARE if name in environment
            ),
        )

    def tightest(self, candidate: Candidate, budget: Budget) -> Budget:
        """The budget, or the baseline's limit where that is tighter and not to be loosened now."""
        entry = self._entry(candidate.name, budget.metric.name)
        if entry is None or self.loosen is not None or budget.relative:
            return budget
        limits = (budget.limit, entry.limit)
        limit = max(limits) if budget.metric.higher_is_better else min(limits)
        return replace(budget, limit=limit, origin=f"baseline of run {entry.provenance.run_id}")

    def check(self, candidate: Candidate, judgement: Judgement) -> Judgement:
        """The judgement, INCONCLUSIVE where its baseline comes from something not comparable."""
        entry = self._entry(candidate.name, judgement.metric)
        here = self.provenance.get(candidate.name)
        if entry is None or here is None or judgement.verdict is None or self.loosen is not None:
            return judgement
        differing = Baselines.mismatch(entry, here)
        if not differing:
            return judgement
        return replace(
            judgement,
            verdict=Verdict.INCONCLUSIVE,
            reason=f"the baseline (run {entry.provenance.run_id}) has another "
            f"{', '.join(differing)}; set it anew with --infopt-baseline-loosen REASON",
        )

    def unused(self, release: Release) -> Iterator[str]:
        """That the file, which was to be compared with, limits nothing of this run."""
        if self.baselines is None or self.tighten or self.loosen:
            return
        names = {candidate.name for candidate in release.candidates}
        known = {(entry.key[0], entry.candidate) for entry in self.baselines.entries}
        if known and not known & {(self.device, name) for name in names}:
            yield (
                f"the comparison with {self.baselines.path}: it has no limit for "
                f"{', '.join(sorted(names)) or 'this release'} on {self.device}; begin one with "
                "--infopt-baseline-update"
            )

    def update(self, results: Sequence[GateResult]) -> None:
        """Write the file where this run may: tighter limits, looser ones only with a reason.

        Raises BaselineError where the file cannot be written.
        """
        if self.baselines is None or not (self.tighten or self.loosen):
            return
        self.apply(results)
        self.baselines.save()

    def apply(self, results: Sequence[GateResult]) -> None:
        """The same without writing the file."""
        assert self.baselines is not None
        for result in results:
            here = self.provenance.get(result.candidate)
            spec = gates().get(result.gate)
            if here is None or spec is None or not spec.follows_baselines:
                continue
            if self.loosen is not None:
                self._loosen(result, here, self.loosen)
            if self.tighten and self._comparable(result, here):
                self.baselines.tighten(result, here)

    def _loosen(self, result: GateResult, here: Provenance, reason: str) -> None:
        assert self.baselines is not None
        for judgement in result.judgements:
            entry, bound = self._entry(result.candidate, judgement.metric), far_bound(judgement)
            if entry is None or bound is None or judgement.verdict is None:
                continue
            worse = bound < entry.limit if _higher(judgement) else bound > entry.limit
            if worse or Baselines.mismatch(entry, here):
                self.baselines.loosen(
                    result.candidate, judgement.metric, bound, here, reason=reason
                )

    def _comparable(self, result: GateResult, here: Provenance) -> bool:
        entries = (self._entry(result.candidate, j.metric) for j in result.judgements)
        return not any(entry is not None and Baselines.mismatch(entry, here) for entry in entries)

    def _entry(self, candidate: str, metric: str) -> Entry | None:
        if self.baselines is None:
            return None
        return self.baselines.entry_for(self.device, candidate, metric)


def _higher(judgement: Judgement) -> bool:
    return metrics()[judgement.metric].higher_is_better
