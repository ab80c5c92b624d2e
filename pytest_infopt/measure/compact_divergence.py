"""Divergences from compact scores (`engines.stored.compact_scores`), whose rows are not whole.

How far a document's mean KL may be off stands beside it: `TokenComparison.kl_off`.
Legend: N compared positions, R of a chunk, V vocabulary, D draws. PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from infopt_reference.quantization import ulp

from ..engines.base import Scores
from ..engines.stored.compact_scores import CompactScores
from .divergence import (
    CHUNK_BYTES,
    TOP,
    TokenComparison,
    check_comparable,
    check_finite,
    compare_scores,
    most_probable,
)


def compare(
    reference: Scores,
    candidate: Scores,
    token_ids: Sequence[int],
    dtype: torch.dtype = torch.float32,
) -> TokenComparison:
    """`divergence.compare_scores`, also from a reference whose scores are compact."""
    if isinstance(reference, CompactScores):
        return compare_compact(reference, candidate, token_ids, dtype)
    return compare_scores(reference, candidate, token_ids, dtype)


def compare_compact(
    reference: CompactScores,
    candidate: Scores,
    token_ids: Sequence[int],
    dtype: torch.dtype = torch.float32,
    chunk_bytes: int = CHUNK_BYTES,
) -> TokenComparison:
    """As `divergence.compare_scores`, from a reference of which not every token is known.

    ``kl`` is unbiased over the draws that stand for the tail; ``kl_reverse`` counts the tail as one
    token and falls short. ``identical`` is False: equal bits cannot be seen.
    """
    check_comparable(reference, candidate, token_ids)
    targets = torch.tensor(list(token_ids[1:]))
    rows = max(1, chunk_bytes // (8 * reference.vocabulary))
    chunks = []
    with torch.no_grad():
        for start in range(0, len(targets), rows):
            stop = min(start + rows, len(targets))
            chunks.append(
                _compare(
                    reference, candidate.logits(start, stop), targets[start:stop], start, dtype
                )
            )
    columns = {name: torch.cat([chunk[name] for chunk in chunks]).cpu() for name in chunks[0]}
    errors = columns.pop("kl_error")
    off = _off(float(columns["kl"].mean()), errors, reference.step)
    return TokenComparison(**columns, identical=False, kl_off=off)


def _off(mean: float, errors: torch.Tensor, step: float) -> float:
    """What a mean KL may be off by, in nats: three standard errors of the draws, and the most that
    rounding to steps may cost.

    A probability is off by a factor of at most e^(step/2). As rounded ones sum to what the exact
    ones do, that moves KL by at most step/2·(E|ln p/q| + step/2), and E|ln p/q| ≤ KL + √(2·KL)
    (Pinsker's inequality).
    """
    drawn = float(errors.square().sum().sqrt()) / len(errors)
    rounding = step / 2 * (mean + math.sqrt(2 * mean) + step / 2)
    return 3 * drawn + rounding


def _compare(
    reference: CompactScores,
    logits: torch.Tensor,
    targets: torch.Tensor,
    start: int,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    stop = start + len(logits)
    top, ids = most_probable(logits, min(TOP, reference.vocabulary))
    check_finite("candidate", top, start)
    log_q = torch.log_softmax(logits.double(), -1)  # [R, V]
    kept, kept_reverse, tail_q = _of_kept(reference, log_q, start, stop)
    tail, error = _of_tail(reference, log_q, slice(start, stop))
    rest = reference.tail[start:stop]
    reverse_tail = torch.where(tail_q * rest > 0, tail_q * (tail_q / rest).log(), 0.0)
    best_logits, best = reference.best_logits[start:stop], reference.best_ids[start:stop]
    normaliser = reference.log_normaliser[start:stop, None]
    second = best_logits[:, min(1, best_logits.shape[1] - 1)]
    return {
        "kl": (kept + tail).clamp(min=0),
        "kl_error": error,
        "kl_reverse": (kept_reverse + reverse_tail).clamp(min=0),
        "reference_nll": -reference.true[start:stop],
        "candidate_nll": -log_q.gather(1, targets.to(log_q.device)[:, None])[:, 0],
        "confidence": (best_logits[:, :1] - normaliser)[:, 0].exp(),
        "gap_ulps": (best_logits[:, 0] - second) / ulp(best_logits[:, 0], dtype),
        "top1_agrees": (best[:, 0] == ids[:, 0]).double(),
        "top5_overlap": (best[:, :, None] == ids[:, None, :]).any(-1).double().mean(-1),
        "reference_top": best,
        "candidate_top": ids,
        "reference_top_probability": (best_logits - normaliser).exp(),
        "candidate_top_probability": log_q.gather(1, ids).exp(),
    }


def _of_kept(
    reference: CompactScores, log_q: torch.Tensor, start: int, stop: int
) -> tuple[torch.Tensor, ...]:
    """Both divergences' sums over kept tokens, and the candidate's probability of the others."""
    counts = reference.counts
    first = int(counts[:start].sum())
    inside = slice(first, first + int(counts[start:stop].sum()))
    rows = torch.arange(stop - start, device=log_q.device)
    rows = rows.repeat_interleave(counts[start:stop])
    log_p = reference.kept[inside]
    log_r = log_q[rows, reference.kept_ids[inside]]
    p, q = log_p.exp(), log_r.exp()
    change = log_p - log_r

    def summed(values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(stop - start, dtype=values.dtype, device=values.device).index_add_(
            0, rows, values
        )

    forward = torch.where(p > 0, p * change, 0.0)
    backward = torch.where(q > 0, -q * change, 0.0)
    return summed(forward), summed(backward), (1 - summed(q)).clamp(min=0)


def _of_tail(
    reference: CompactScores, log_q: torch.Tensor, rows: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tail's part of KL from its draws, and that part's standard error."""
    weight = reference.tail[rows]
    ratios = reference.drawn[rows] - log_q.gather(1, reference.drawn_ids[rows])  # [R, D]
    count = ratios.shape[1]
    mean, error = ratios.mean(-1), ratios.std(-1) / math.sqrt(count)
    none = weight == 0
    return torch.where(none, 0.0, weight * mean), torch.where(none, 0.0, weight * error)
