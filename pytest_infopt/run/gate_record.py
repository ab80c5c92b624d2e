"""What a gate has found so far, and what the reports show of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..metrics.budget import Budget
from ..results.sample import Sample, TokenFinding
from ..results.verdict import Judgement, Verdict


class GateRecord:
    """``judgements`` by metric, ``samples`` in their order, ``notes`` for people, ``details`` for
    result.json. ``failures`` are FAILs that stand, by metric, however the gate ends."""

    def __init__(self) -> None:
        self.judgements: list[Judgement] = []
        self.failures: dict[str, Judgement] = {}
        self.samples: list[Sample] = []
        self.notes: list[str] = []
        self.details: dict[str, object] = {}

    def note(self, notes: Iterable[str]) -> None:
        """Keep notes for people, each once."""
        self.notes += [note for note in notes if note not in self.notes]

    def add(self, sample: Sample) -> None:
        """Keep a sample, and its notes."""
        self.samples.append(sample)
        self.note(sample.details.get("notes", ()))

    def settle(self, judgements: list[Judgement], *, stands: bool) -> None:
        """Keep what a collection came to. FAILs that stand are evidence of harm, which counts
        whatever breaks afterwards."""
        self.judgements = judgements
        failed = (j for j in judgements if stands and j.verdict is Verdict.FAIL)
        self.failures |= {judgement.metric: judgement for judgement in failed}
        self.note(j.reason for j in judgements if j.n and j.verdict is None and j.reason)

    def undecided(self, budgets: Mapping[str, Budget], reason: str) -> list[Judgement]:
        """INCONCLUSIVE for that reason, but for what has failed."""
        return [
            self.failures.get(
                name,
                Judgement(name, None, 0, 0, Verdict.INCONCLUSIVE, budget.limit, reason=reason),
            )
            for name, budget in budgets.items()
        ]

    def worst_findings(self, count: int) -> list[TokenFinding]:
        """The tokens of all samples at which the models part most."""
        found = [finding for sample in self.samples for finding in sample.findings]
        return sorted(found, key=lambda finding: finding.kl, reverse=True)[:count]

    @property
    def failed(self) -> bool:
        """Whether a metric has failed: what follows would not change the gate's verdict."""
        return any(judgement.verdict is Verdict.FAIL for judgement in self.judgements)

    def show(self, table: Mapping[str, object]) -> None:
        """Put a `MeasuredTable`, as its dictionary, into the reports."""
        tables = self.details.setdefault("tables", [])
        assert isinstance(tables, list)
        tables.append(dict(table))

    def show_samples(self, *details: str) -> None:
        """Put the tables that samples carry, and these of their details, into the reports."""
        for sample in self.samples:
            for table in sample.details.get("tables", ()):
                self.show(table)
        for name in details:
            found = {s.unit: s.details[name] for s in self.samples if name in s.details}
            if found:
                self.details[name] = found
