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
from typing import Protocol

import torch

from pytest_infopt import MeasuredTable, Plot, Sample
from pytest_infopt.engines.base import CachedEngine, ScoringEngine
from pytest_infopt.measure import (
    Difference,
    SelfComparison,
    dtype_error_of,
    dtype_named,
    host_logits,
)

CHUNK = 512  # tokens of a prefill pass


class TailEngine(ScoringEngine, CachedEngine, Protocol):
    """What the sweep takes."""


def tail_logits(engine: ScoringEngine, token_ids: Sequence[int], tail: int) -> torch.Tensor:
    """Logits [tail, V] of the last tokens from one plain pass, in float64 on the CPU."""
    count = len(token_ids)
    return host_logits(engine.score(token_ids).logits(count - tail, count))


def measure_long_text(
    candidate: TailEngine,
    reference: torch.Tensor,
    oracle: torch.Tensor,
    plain: torch.Tensor,
    token_ids: Sequence[int],
    unit: str,
    control: Callable[[], TailEngine] | None = None,
    lengths: Callable[[], Difference] = Difference,
) -> Sample:
    """The last S positions of one text.

    ``reference``, ``oracle`` and ``plain`` [S, V] are the reference's logits there: its own, in the
    widest dtype, and in the candidate's. ``long_context_kl`` is KL(reference ‖ candidate), the mean
    over S; ``long_context_error_ratio`` the RMS difference between what comes through the cache and
    what comes without, in the units of `SelfComparison`, left out where the oracle is no finer than
    the candidate's dtype. ``control`` gives the reference's weights in this dtype, which go the
    same way where that difference is too large; ``lengths`` gives their `length_effect`.
    """
    started = time.perf_counter()
    tail = len(oracle)
    logits = tail_logits(candidate, token_ids, tail)
    log_p, log_q = torch.log_softmax(reference, -1), torch.log_softmax(logits, -1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp(min=0)  # [S]
    values = {"long_context_kl": float(kl.mean())}
    notes: list[str] = []
    if dtype_error_of(oracle, plain, dtype_named(candidate.dtype)).usable:
        found = SelfComparison(candidate, oracle, plain, unit, least_tokens=1, lengths=lengths)
        tail_of = partial(_tail_through_cache, token_ids=token_ids, tail=tail)
        pair = partial(_control_tail, control, plain, tail_of)
        found.add("through the cache", tail_of(candidate), logits, control=pair)
        values["long_context_error_ratio"] = found.errors["through the cache"]
        notes = found.notes
    return Sample(
        unit=unit,
        weight=tail,
        values=values,
        identical=torch.equal(logits, reference),
        details={
            "tokens": len(token_ids),
            "notes": notes,
            "top1_agreement": float((log_p.argmax(-1) == log_q.argmax(-1)).double().mean()),
        },
        seconds=time.perf_counter() - started,
    )


def _tail_through_cache(
    engine: CachedEngine, *, token_ids: Sequence[int], tail: int
) -> torch.Tensor:
    return host_logits(engine.cached_tail(token_ids, tail, CHUNK))


def _control_tail(
    control: Callable[[], TailEngine] | None,
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
            sample.values.get("long_context_error_ratio"),
        )
        for sample in ordered
    )
    columns = ("tokens", "KL, nats", "top-1 agreement", "through the cache / dtype's own error")
    plot = Plot("tokens", ("KL, nats",), "KL(reference ‖ candidate), nats", "point", log_x=True)
    return MeasuredTable(f"long contexts, last {tail} positions", columns, rows, plot=plot)
