"""What a gate has found so far, and what the reports show of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..results.sample import Sample
from ..results.verdict import Judgement, Verdict


class GateRecord:
    """``judgements`` by metric, ``samples`` in their order, ``notes`` for people, ``details`` for
    result.json."""

    def __init__(self) -> None:
        self.judgements: list[Judgement] = []
        self.samples: list[Sample] = []
        self.notes: list[str] = []
        self.details: dict[str, object] = {}

    def note(self, notes: Iterable[str]) -> None:
        """Keep notes for people, each once."""
        self.notes += [note for note in notes if note not in self.notes]

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
