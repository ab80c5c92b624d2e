"""What a server told, judged by the reference's rows of the same text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from infopt_reference.quantization import ulp

from pytest_infopt import Capability, ModelPair, TokenFinding
from pytest_infopt.measure import (
    Decode,
    best_token,
    dtype_error_of,
    dtype_named,
    lumped_divergence,
    near_tie_gap,
    two_runs,
)

from .plans import EquivalencePlan
from .told_rows import Row

_CONTEXT_TOKENS = 24


@dataclass(frozen=True)
class NearTie:
    """``gap``: nats by which two tokens may lie apart where either may come, None where that is not
    known; ``spacing``: one ulp of the candidate's dtype among its largest logits."""

    gap: float | None
    spacing: float = math.nan


def near_tie_of(pair: ModelPair, plan: EquivalencePlan) -> NearTie:
    """What may differ between reference and candidate; not known where the reference is served,
    whose logits in the candidate's dtype cannot be had."""
    if Capability.FULL_LOGITS not in pair.reference.capabilities:
        return NearTie(None)
    prompts = pair.prompt_set(plan)
    dtype = dtype_named(pair.candidate.dtype)
    errors = dtype_error_of(prompts.oracle[0].double(), prompts.plain[0], dtype)
    spacing = float(ulp(prompts.plain[0].max()[None], dtype))
    return NearTie(near_tie_gap(two_runs(errors), spacing), spacing)


@dataclass(frozen=True)
class JudgedTokens:
    """The share of a server's tokens that are the reference's, and those that may not differ."""

    agreement: float
    mismatches: list[TokenFinding]


def document_divergence(
    reference: Sequence[Row],
    candidate: Sequence[Row],
    positions: Sequence[int],
    ids: Sequence[int],
    near_tie: NearTie,
    unit: str,
    decode: Decode,
) -> tuple[float, TokenFinding]:
    """The mean lumped divergence of the positions, and the worst of them."""
    pairs = list(zip(reference, candidate, strict=True))
    divergences = [lumped_divergence(p, q) for p, q in pairs]
    worst = max(range(len(pairs)), key=divergences.__getitem__)
    p, q = pairs[worst]
    values = sorted(p.values(), reverse=True)
    gap = values[0] - values[1] if len(values) > 1 else math.nan
    found = _finding(ids, positions[worst] + 1, p, q, unit, decode)
    found = replace(found, kl=divergences[worst], gap_ulps=gap / near_tie.spacing)
    return math.fsum(divergences) / len(divergences), found


def judge_tokens(
    rows: Sequence[Row],
    whole: Sequence[int],
    start: int,
    near_tie: NearTie,
    unit: str,
    decode: Decode,
) -> JudgedTokens:
    """Judge the tokens ``whole[start:]``, each by the reference's row behind all before it.

    One that the reference, served itself, does not tell counts as its least probable.
    """
    agreeing, mismatches = 0, []
    for position, row in enumerate(rows, start):
        token, best = whole[position], best_token(row)
        gap = row[best] - row.get(token, min(row.values()))
        agreeing += token == best or (gap == 0 and token in row)
        if near_tie.gap is not None and gap > near_tie.gap:
            chosen = {token: row.get(token, -math.inf)}
            found = _finding(whole, position, row, chosen, unit, decode)
            mismatches.append(replace(found, gap_ulps=gap / near_tie.spacing))
    return JudgedTokens(agreeing / len(rows), mismatches)


def parting(
    row: Row,
    context: Sequence[int],
    tokens: tuple[int, int],
    near_tie: NearTie,
    unit: str,
    decode: Decode,
) -> TokenFinding | None:
    """What a row behind ``context`` says of two tokens that came there: None where both may come.
    Where no near-tie is known, only equally probable ones may."""
    own, other = tokens
    gap = abs(row[own] - row[other])
    if gap <= (near_tie.gap or 0.0):
        return None
    one, another = {own: row[own]}, {other: row[other]}
    found = _finding([*context, own], len(context), one, another, unit, decode)
    return replace(found, gap_ulps=gap / near_tie.spacing)


def row_change(
    context: Sequence[int], first: Row, again: Row, unit: str, decode: Decode
) -> TokenFinding:
    """What a server found behind ``context``, and what it found of the same prompt again."""
    whole = [*context, best_token(first)]
    found = _finding(whole, len(context), first, again, unit, decode)
    return replace(found, kl=lumped_divergence(first, again))


def _finding(
    ids: Sequence[int], position: int, reference: Row, candidate: Row, unit: str, decode: Decode
) -> TokenFinding:
    return TokenFinding(
        document=unit,
        position=position,
        context=decode(ids[max(0, position - _CONTEXT_TOKENS) : position]),
        true_token=decode([ids[position]]),
        reference_top=_top(reference, decode),
        candidate_top=_top(candidate, decode),
        kl=0.0,
        gap_ulps=0.0,
    )


def _top(row: Row, decode: Decode) -> list[tuple[str, float]]:
    best = best_token(row)
    return [(decode([best]), math.exp(row[best]))]
