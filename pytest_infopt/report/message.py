"""Why a gate did not pass, in plain text: every report shows the same message."""

from __future__ import annotations

import math
from typing import Any

from ..conformance.results import CONFORMANCE
from ..results.gate_result import GateResult
from ..results.verdict import Judgement, Verdict
from .text import defused, quoted, visible
from .wording import budget_text, count_text, gate_word, interval_text, remedy_text, value_text

NOTHING_JUDGED = "no metric was judged, so nothing was shown"
_CONTEXT = 100  # characters before the token that a finding shows


def failure_message(gate: GateResult) -> str:
    """Why a gate did not pass: metrics, the worst tokens with both models' views, the command."""
    lines = [f"{visible(gate.gate)} of {visible(gate.candidate)}: {gate_word(gate)}"]
    if gate.not_run:
        lines.append(f"  {visible(gate.not_run)}")
    if gate.error is not None:
        lines.append("  could not be measured; this says nothing about the candidate:")
        lines += [f"    {visible(line)}" for line in gate.error.splitlines()]
    for verdict in () if gate.not_run else (Verdict.FAIL, Verdict.INCONCLUSIVE):
        judged = [j for j in gate.judgements if j.verdict is verdict]
        for judgement in judged:
            lines += _judged_lines(gate, judgement)
    if not was_judged(gate):
        lines.append(f"  {NOTHING_JUDGED}")
    lines += [f"  note: {visible(note)}" for note in gate.notes]
    for finding in gate.findings:
        lines += _finding_lines(finding)
    diagnosis = gate.details.get("diagnosis")
    if isinstance(diagnosis, list) and diagnosis:
        lines += ["  diagnosis:", *(f"    {visible(str(sentence))}" for sentence in diagnosis)]
    if gate.reproduce:
        lines += ["  reproduce:", f"    {visible(gate.reproduce)}"]
    return "\n".join(defused(line) for line in lines)


def was_judged(gate: GateResult) -> bool:
    return bool(gate.error or gate.not_run) or any(j.verdict is not None for j in gate.judgements)


def _judged_lines(gate: GateResult, judgement: Judgement) -> list[str]:
    """One metric in one line; a property with the whole of what it said, and its docstring."""
    if gate.gate != CONFORMANCE:
        return [f"  {judgement.verdict} {judged_sentence(gate, judgement)}"]
    said = str(judgement.details.get("message") or judgement.reason)
    lines = [f"  {judgement.verdict} {visible(judgement.metric)}"]
    for text in (said, str(judgement.details.get("law", ""))):
        lines += [f"    {visible(line)}".rstrip() for line in text.splitlines()]
    return lines


def judged_sentence(gate: GateResult, judgement: Judgement) -> str:
    """One metric in one sentence."""
    if gate.gate == CONFORMANCE:
        return f"{visible(judgement.metric)}: {visible(judgement.reason)}"
    parts = [
        f"{visible(judgement.metric)} {value_text(judgement.metric, judgement.value)}",
        f"budget {budget_text(judgement)}",
        f"interval {interval_text(judgement) or 'none'}",
        f"n {count_text(judgement)}",
    ]
    if judgement.reason:
        parts.append(visible(judgement.reason))
    if judgement.verdict is Verdict.INCONCLUSIVE and (remedy := remedy_text(gate.gate, judgement)):
        parts.append(remedy)
    return ", ".join(parts)


def _finding_lines(finding: dict[str, Any]) -> list[str]:
    """A `results.sample.TokenFinding`; keys that a user's own gate leaves out are skipped."""
    lines = [f"  {finding_place(finding)}: {finding_evidence(finding)}"]
    if context := finding_context(finding):
        lines.append(f"    after {context}")
    for who in ("reference", "candidate"):
        if top := top_text(finding, who):
            lines.append(f"    {who}: {top}")
    return lines


def finding_place(finding: dict[str, Any]) -> str:
    """Document and token."""
    document = visible(str(finding.get("document", "?")))
    return f"document {document}, token {visible(str(finding.get('position', '?')))}"


def finding_evidence(finding: dict[str, Any]) -> str:
    """True token, divergence, and how near a tie the reference is there."""
    parts = []
    if "true_token" in finding:
        parts.append(f"true token {quoted(str(finding['true_token']))}")
    if (divergence := finding.get("kl")) is not None:
        parts.append(f"KL {value_text('kl_max', divergence)}")
    if (gap := finding.get("gap_ulps")) is not None:
        parts.append(f"reference's logit gap {_ulps(gap)} ulp")
    return ", ".join(parts)


def finding_context(finding: dict[str, Any]) -> str:
    """The text before the token, in quotes; "" where it is not known."""
    context = str(finding.get("context", ""))
    return quoted(context if len(context) <= _CONTEXT else "…" + context[-_CONTEXT:]) * bool(
        context
    )


def top_text(finding: dict[str, Any], who: str) -> str:
    """What the reference or the candidate expected, the most probable first; "" if not known."""
    top = finding.get(f"{who}_top") or ()
    return ", ".join(f"{quoted(token)} {100 * probability:.2f} %" for token, probability in top)


def _ulps(gap: float) -> str:
    return f"{gap:,.0f}" if math.isfinite(gap) and gap >= 10 else f"{gap:.2g}"
