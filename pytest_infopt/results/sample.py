"""What measuring yields: plain numbers that travel as JSON. Imports nothing heavy.

A sample is one independent unit: a document, a pair of requests, a prompt, a memory reading. The
worker process makes them, the journal keeps them, and the judge reads ``values`` by metric name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class TokenFinding:
    """One token, where the two models part: evidence for a person, never for the judge.

    ``reference_top`` and ``candidate_top`` list (token text, probability), the most probable first;
    ``gap_ulps`` is the reference's logit gap between its two best tokens in ulps of the working
    dtype: a small one is a near-tie.
    """

    document: str
    position: int
    context: str
    true_token: str
    reference_top: list[tuple[str, float]]
    candidate_top: list[tuple[str, float]]
    kl: float
    gap_ulps: float


@dataclass(frozen=True)
class Sample:
    """One independent unit of a measurement.

    ``values`` maps a metric's name to this unit's number: a mean over its tokens (rule MEAN), a log
    ratio candidate/reference (SIGN), the unit's worst number (WORST), a size (EXACT). ``tokens``
    maps the stem of an EXCEEDANCE metric (``kl``, ``ttft``, ``itl``, …) to the single values of the
    unit, of which quantiles are taken. ``identical`` says that both outputs had the same bits.
    """

    unit: str
    weight: int
    values: dict[str, float]
    tokens: dict[str, list[float]] = field(default_factory=dict)
    identical: bool = False
    findings: list[TokenFinding] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Sample:
        findings = [
            TokenFinding(
                **{
                    **finding,
                    "reference_top": [(text, p) for text, p in finding["reference_top"]],
                    "candidate_top": [(text, p) for text, p in finding["candidate_top"]],
                }
            )
            for finding in document.get("findings", [])
        ]
        return cls(**{**document, "findings": findings})
