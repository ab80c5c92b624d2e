"""What a candidate's predictions of one document lost against the reference's."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from pytest_infopt import Sample, TokenFinding
from pytest_infopt.engines.base import Scores
from pytest_infopt.measure import Decode, TokenComparison, compare, named_tokens

from .summary import CONFIDENCE_EDGES

FINDINGS = 3
_CONTEXT_TOKENS = 24
_COMPACT = (
    "the reference's scores are compact: kl_mean is unbiased over the draws that stand for "
    "improbable tokens, kl_reverse counts these as one token, and equal bits cannot be seen"
)


def measure_document(
    reference: Scores,
    candidate: Scores,
    document_id: str,
    token_ids: Sequence[int],
    decode: Decode,
    dtype: torch.dtype = torch.float32,
) -> Sample:
    """Compare the teacher-forced predictions of one document; see `measure.compare`.

    ``values`` are means over the document's predicted tokens: ``perplexity_ratio`` the mean
    difference of negative log-likelihoods (the log of the ratio), ``true_probability_rms`` the mean
    square. ``dtype`` is the working format in whose ulps findings state near-ties.
    """
    started = time.perf_counter()
    comparison = compare(reference, candidate, token_ids, dtype)
    change = comparison.probability_change
    values = {
        "kl_mean": comparison.kl.mean(),
        "kl_reverse_mean": comparison.kl_reverse.mean(),
        "kl_max": comparison.kl.max(),
        "perplexity_ratio": (comparison.candidate_nll - comparison.reference_nll).mean(),
        "top1_agreement": comparison.top1_agrees.mean(),
        "top5_overlap": comparison.top5_overlap.mean(),
        "true_probability_rms": change.square().mean(),
    }
    return Sample(
        unit=document_id,
        weight=len(comparison.kl),
        # Not a number where both models rule the true token out: their ratio says nothing then.
        values={name: float(value) for name, value in values.items() if not value.isnan()},
        tokens={"kl": comparison.kl.tolist(), "kl_document": [values["kl_mean"].item()]},
        identical=comparison.identical,
        findings=[] if comparison.identical else _worst(comparison, document_id, token_ids, decode),
        details={
            "reference_nll": float(comparison.reference_nll.sum()),
            "candidate_nll": float(comparison.candidate_nll.sum()),
            "true_probability_change": float(change.mean()),
            "buckets": _buckets(comparison),
            **_compact(comparison),
        },
        seconds=time.perf_counter() - started,
    )


def _compact(comparison: TokenComparison) -> dict[str, object]:
    """What is to be known where the reference's scores are compact."""
    if not comparison.kl_off:
        return {}
    return {"kl_off": comparison.kl_off, "notes": [_COMPACT]}


def _buckets(comparison: TokenComparison) -> list[dict[str, float]]:
    """Tokens by the reference's confidence: count, mean KL and top-1 agreement of each bucket."""
    edges = torch.tensor(CONFIDENCE_EDGES, dtype=torch.float64)
    # Inner edges alone, so that a confidence that rounding lifted past 1 stays in the last bucket.
    places = torch.bucketize(comparison.confidence, edges[1:-1], right=True)
    buckets = []
    for index in range(len(edges) - 1):
        inside = places == index
        count = int(inside.sum())
        bucket: dict[str, float] = {"count": count}
        if count:
            bucket["kl_mean"] = float(comparison.kl[inside].mean())
            bucket["top1_agreement"] = float(comparison.top1_agrees[inside].mean())
        buckets.append(bucket)
    return buckets


def _worst(
    comparison: TokenComparison, document_id: str, token_ids: Sequence[int], decode: Decode
) -> list[TokenFinding]:
    rows = comparison.kl.topk(min(FINDINGS, len(comparison.kl))).indices.tolist()
    return [_finding(comparison, row, document_id, token_ids, decode) for row in rows]


def _finding(
    comparison: TokenComparison,
    row: int,
    document_id: str,
    token_ids: Sequence[int],
    decode: Decode,
) -> TokenFinding:
    """Row t predicts token t + 1: that is the position a finding names."""
    position = row + 1
    return TokenFinding(
        document=document_id,
        position=position,
        context=decode(token_ids[max(0, position - _CONTEXT_TOKENS) : position]),
        true_token=decode([token_ids[position]]),
        reference_top=named_tokens(
            comparison.reference_top[row], comparison.reference_top_probability[row], decode
        ),
        candidate_top=named_tokens(
            comparison.candidate_top[row], comparison.candidate_top_probability[row], decode
        ),
        kl=float(comparison.kl[row]),
        gap_ulps=float(comparison.gap_ulps[row]),
    )
