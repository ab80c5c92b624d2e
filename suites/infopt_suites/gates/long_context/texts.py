"""Long contexts: what a candidate loses, and whether its cache still holds, as texts get longer.

Each text is scored whole, and its last tokens are computed once more through the KV cache, after a
prefill in chunks. Positions of a long text differ in what precedes them alone, so a growth of KL
with length is the candidate's (positions beyond what its rope was scaled for, a cache too short, a
quantized cache whose errors add up), not the text's.

Legend: S the last positions of a text, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch

from pytest_infopt import MeasuredTable, Plot, Sample
from pytest_infopt.engines.base import CachedEngine, Capability, Scores, ScoringEngine, able
from pytest_infopt.measure import (
    Difference,
    SelfComparison,
    compare,
    dtype_error_of,
    dtype_named,
    host_logits,
)

CHUNK = 512  # tokens of a prefill pass
FIRST_BUCKET = 128  # positions; each later bucket reaches twice as far
THROUGH = "long_context_error_ratio"
_OWN_CODES = "codes that round another way may come to what its cache's format loses"


def tail_logits(scores: Scores, tail: int) -> torch.Tensor:
    """The last ``tail`` rows [tail, V] of a text's scores, in float64 on the CPU."""
    return host_logits(scores.logits(scores.positions - tail, scores.positions))


def bucket_divergences(
    reference: Scores, candidate: Scores, token_ids: Sequence[int], dtype: torch.dtype
) -> dict[str, float]:
    """Mean KL(reference ‖ candidate) in nats of the positions 0–128, 128–256, 256–512, …"""
    kl = compare(reference, candidate, token_ids, dtype).kl  # [T − 1]
    starts = [0, FIRST_BUCKET]
    while starts[-1] < len(kl):
        starts.append(2 * starts[-1])
    edges = [(start, min(stop, len(kl))) for start, stop in pairwise(starts) if start < len(kl)]
    return {f"{start}–{stop}": float(kl[start:stop].mean()) for start, stop in edges}


def measure_long_text(
    candidate: ScoringEngine,
    scores: Scores,
    reference: torch.Tensor,
    oracle: torch.Tensor,
    plain: torch.Tensor,
    token_ids: Sequence[int],
    unit: str,
    control: Callable[[], CachedEngine] | None = None,
    lengths: Callable[[], Difference] = Difference,
    rounds_cache: bool = False,
) -> Sample:
    """The last S positions of one text, whose ``scores`` are the candidate's.

    ``reference``, ``oracle`` and ``plain`` [S, V] are the reference's logits there: its own, in the
    widest dtype, and in the candidate's. ``long_context_kl`` is KL(reference ‖ candidate), the mean
    over S; ``long_context_error_ratio`` the RMS difference between what comes through the cache and
    what comes without, in the units of `SelfComparison`, left out where the oracle is no finer than
    the candidate's dtype, or where it has no cache to drive. ``control`` gives the reference's
    weights in this dtype, which go the same way where that difference is too large; ``lengths``
    gives their `length_effect`. Where the candidate ``rounds_cache``, what its plain pass
    loses against the reference takes their place. Sums in another order differ by a last bit δ, and
    round a share δ / step of the codes to the other neighbour, which is a difference of √(δ · step)
    for the next layer: after a few layers two sound results are as far apart as codes are coarse.
    """
    started = time.perf_counter()
    tail = len(oracle)
    logits = tail_logits(scores, tail)
    log_p, log_q = torch.log_softmax(reference, -1), torch.log_softmax(logits, -1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # [S]
    values = {"long_context_kl": float(kl.mean())}
    notes: list[str] = []
    not_judged: dict[str, str] = {}
    if Capability.CACHE not in candidate.capabilities:
        not_judged = {THROUGH: f"engine {candidate.name!r} has no cache to drive"}
    elif dtype_error_of(oracle, plain, dtype_named(candidate.dtype)).usable:
        engine = able(candidate, CachedEngine)
        told = {"held_to": _OWN_CODES} if rounds_cache else {}
        found = SelfComparison(
            candidate, oracle, plain, unit, least_tokens=1, lengths=lengths, **told
        )
        tail_of = partial(_tail_through_cache, token_ids=token_ids, tail=tail)
        pair = partial(_control_tail, control, plain, tail_of)
        own = (lambda: (logits, plain)) if rounds_cache else pair
        found.add("through the cache", tail_of(engine), logits, control=own)
        values[THROUGH] = found.errors["through the cache"]
        notes = found.notes
    return Sample(
        unit=unit,
        weight=tail,
        values=values,
        identical=torch.equal(logits, reference),
        details={
            "tokens": len(token_ids),
            "notes": [*notes, *not_judged.values()],
            "not_judged": not_judged,
            "top1_agreement": float((log_p.argmax(-1) == log_q.argmax(-1)).double().mean()),
        },
        seconds=time.perf_counter() - started,
    )


def _tail_through_cache(
    engine: CachedEngine, *, token_ids: Sequence[int], tail: int
) -> torch.Tensor:
    return host_logits(engine.cached_tail(token_ids, tail, CHUNK))


def _control_tail(
    control: Callable[[], CachedEngine] | None,
    plain: torch.Tensor,
    tail_of: Callable[[CachedEngine], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor] | None:
    return None if control is None else (tail_of(control()), plain)


def sweep_table(samples: Sequence[Sample], tail: int) -> MeasuredTable:
    """One row for each text, in order of length."""
    ordered = sorted(samples, key=lambda sample: int(sample.details["tokens"]))
    rows = tuple(
        (
            int(sample.details["tokens"]),
            sample.values["long_context_kl"],
            float(sample.details["top1_agreement"]),
            sample.values.get(THROUGH),
        )
        for sample in ordered
    )
    columns = ("tokens", "KL, nats", "top-1 agreement", "through the cache / dtype's own error")
    plot = Plot("tokens", ("KL, nats",), "KL(reference ‖ candidate), nats", "point", log_x=True)
    return MeasuredTable(f"long contexts, last {tail} positions", columns, rows, plot=plot)


def bucket_table(samples: Sequence[Sample]) -> MeasuredTable:
    """The KL of each bucket of positions, a row for each text."""
    names = list(dict.fromkeys(name for s in samples for name in s.details.get("buckets", {})))
    names.sort(key=lambda name: [int(edge) for edge in name.split("–")])
    rows = tuple(
        (int(s.details["tokens"]), *(s.details["buckets"].get(name) for name in names))
        for s in sorted(samples, key=lambda s: int(s.details["tokens"]))
    )
    return MeasuredTable("KL by position, nats", ("tokens", *names), rows)
