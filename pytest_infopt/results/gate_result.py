"""What one gate on one candidate came to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .verdict import Judgement, Verdict, combine


@dataclass(frozen=True)
class GateResult:
    """One pytest item: a gate run on a candidate, with one judgement per metric.

    Where the gate is "conformance", the candidate is an implementation, each of its properties is
    an item with one judgement, and the items are joined (`conformance.results.merged`).

    ``error`` is set where the harness failed and says how; ``reproduce`` is a shell command;
    ``findings`` are the worst tokens (`sample.TokenFinding` as dictionaries); ``notes``
    are sentences for a person ("identical outputs").
    """

    gate: str
    candidate: str
    seconds: float
    judgements: list[Judgement] = field(default_factory=list)
    error: str | None = None
    notes: list[str] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    reproduce: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    not_run: str = ""

    @property
    def verdict(self) -> Verdict:
        verdicts = [j.verdict for j in self.judgements if j.verdict is not None]
        return combine([*verdicts, Verdict.ERROR] if self.error else verdicts)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> GateResult:
        fields = {key: value for key, value in document.items() if key != "verdict"}
        fields["judgements"] = [_judgement(row) for row in document["judgements"]]
        return cls(**fields)


def _judgement(row: dict[str, Any]) -> Judgement:
    verdict, interval = row["verdict"], row["interval"]
    return Judgement(
        **{
            **row,
            "verdict": None if verdict is None else Verdict(verdict),
            "interval": None if interval is None else (interval[0], interval[1]),
        }
    )
