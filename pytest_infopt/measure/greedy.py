"""Greedy tokens: where two models choose differently, and where they may.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from infopt_reference.quantization import ulp

from ..results.sample import TokenFinding
from .divergence import most_probable
from .dtype_error import OUTPUT_FACTOR, DtypeError
from .findings import Decode, named_tokens

# Rounding two logits moves their gap by at most one ulp; the same factor on top of that.
NEAR_TIE_ULPS = OUTPUT_FACTOR


def near_tie_gap(granted: DtypeError, spacing: float) -> float:
    """By how much the logits of two tokens may lie apart where either may come, at any position:
    the rule of `greedy_mismatches` with the worst position's error; ``spacing`` is one ulp."""
    return max(NEAR_TIE_ULPS * spacing, OUTPUT_FACTOR * float(granted.extremes.max()))


@dataclass(frozen=True)
class Mismatches:
    """Positions where the greedy tokens differ; a near-tie is one where they may."""

    illegal: list[int]
    near_ties: int
    gap_ulps: torch.Tensor  # [T] the oracle's gap between the two greedy tokens


def greedy_mismatches(
    logits: torch.Tensor, oracle: torch.Tensor, dtype_error: DtypeError, dtype: torch.dtype
) -> Mismatches:
    """A mismatch is legal where the oracle's gap between the two tokens is within a few ulps of the
    dtype, or within twice the error that the plain implementation makes at that position."""
    best, chosen = oracle.argmax(-1, keepdim=True), logits.argmax(-1, keepdim=True)
    top = oracle.gather(1, best)[:, 0]
    gap = top - oracle.gather(1, chosen)[:, 0]
    spacing = ulp(top, dtype)
    allowed = torch.maximum(NEAR_TIE_ULPS * spacing, OUTPUT_FACTOR * dtype_error.extremes)
    differs = (best != chosen)[:, 0]
    illegal = differs & (gap > allowed)
    near_ties = int(differs.sum()) - int(illegal.sum())
    return Mismatches(illegal.nonzero().flatten().tolist(), near_ties, gap / spacing)


def first_finding(
    mismatches: Mismatches,
    logits: torch.Tensor,
    oracle: torch.Tensor,
    token_ids: Sequence[int],
    unit: str,
    decode: Decode,
) -> list[TokenFinding]:
    """The first divergent token. Row t predicts token t + 1, the position that is named."""
    if not mismatches.illegal:
        return []
    row = mismatches.illegal[0]
    log_p, log_q = torch.log_softmax(oracle[row], -1), torch.log_softmax(logits[row], -1)
    follows = token_ids[row + 1 : row + 2]
    return [
        TokenFinding(
            document=unit,
            position=row + 1,
            context=decode(token_ids[: row + 1]),
            true_token=decode(follows) if follows else "",
            reference_top=_top(log_p, decode),
            candidate_top=_top(log_q, decode),
            kl=max(0.0, float((log_p.exp() * (log_p - log_q)).sum())),
            gap_ulps=float(mismatches.gap_ulps[row]),
        )
    ]


def _top(log_probabilities: torch.Tensor, decode: Decode) -> list[tuple[str, float]]:
    values, ids = most_probable(log_probabilities[None])
    return named_tokens(ids[0], values[0].exp(), decode)
