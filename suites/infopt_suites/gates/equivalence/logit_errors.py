"""How far a candidate's logits lie from the exact ones, in units of what its number format costs.

Every error ratio here is

    error / (dtype error + floor/2)

(`dtype_error`), both measured on the same prompt: 2 is the limit, and 0 means that no bit differs.
A row's error is its root mean square over V, without the constant that no softmax sees
(`logit_error`).

The three consistency ratios compare the candidate with itself, so that they are about its cache,
its padding and its mask, whatever its weights lost. Rounding differs from path to path, and at a
few positions much more than at others: one row's error is one draw of a heavy-tailed quantity.
They therefore set the RMS over all rows that took the path against twice the worst row of the
dtype error, as each of the two runs may err by as much; only causality, where both runs have the
same shape and so the same rounding, counts its worst row.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch

from pytest_infopt import Sample
from pytest_infopt.engines.base import CachedEngine, Capability, WholeLogitsEngine, able
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.measure import (
    OUTPUT_FACTOR,
    Difference,
    SameShapeComparison,
    SelfComparison,
    dtype_error_of,
    dtype_named,
    first_finding,
    greedy_mismatches,
    host_logits,
    logit_error,
    rms,
    row_rms,
    seen_by_softmax,
    shapes_follow_tokens,
)

from .prompt_passes import EquivalenceEngine, PromptPasses
from .served_paths import SERVED, served_values

DECODE_STEPS = 16  # a fault of the cache shows in the first few


def measure_prompt(
    candidate: EquivalenceEngine,
    reference: WholeLogitsEngine,
    oracle_logits: torch.Tensor,
    dtype_error_logits: torch.Tensor,
    token_ids: Sequence[int],
    unit: str,
    control: Callable[[], EquivalenceEngine] | None = None,
    lengths: Callable[[], Difference] = Difference,
    *,
    padded_ends: bool = True,
) -> Sample:
    """All equivalence metrics of one prompt, each the worst of this prompt.

    ``oracle_logits`` [T, V] are the reference's in float64 (or the widest dtype that fits),
    ``dtype_error_logits`` [T, V] the reference's in the candidate's dtype; ``control`` gives an
    engine of these weights in this dtype, which is compared with itself where the candidate differs
    from itself by more than is granted, and ``lengths`` its `length_effect`. The cache is left out
    where the candidate has none, and so are the ratios when oracle and dtype error are equal: see
    ``details["left_out"]``. Raises InvalidComparisonError when shapes differ, NonFiniteLogitsError
    for NaN and infinity.
    """
    started = time.perf_counter()
    oracle = host_logits(oracle_logits)
    left_out: dict[str, str] = {}
    notes: list[str] = []
    own = PromptPasses(candidate, token_ids, padded_ends=padded_ends)
    logits = host_logits(own.logits)
    _check_shapes(candidate.name, oracle, dtype_error_logits, logits)
    dtype_error = dtype_error_of(oracle, dtype_error_logits, dtype_named(candidate.dtype))
    values = _distances(logits, oracle)
    mismatches = greedy_mismatches(logits, oracle, dtype_error, dtype_named(candidate.dtype))
    values["greedy_mismatches"] = float(len(mismatches.illegal))
    if dtype_error.usable:
        error = logit_error(logits, oracle)
        values["logit_error_ratio"] = rms(error) / dtype_error.overall
    else:
        left_out["error ratios"] = (
            f"the oracle is no finer than the candidate's {candidate.dtype}: what this dtype costs "
            "is not known; set equivalence.oracle to float64"
        )
    same_shape: dict[str, int] = {}
    paths: dict[str, float] = {}
    if len(token_ids) < 2:
        left_out["consistency"] = "a prompt of one token has no earlier and no later position"
    else:
        controls = _control_passes(control, token_ids, padded_ends)
        unit_error = 2 * dtype_error.worst
        follows = partial(shapes_follow_tokens, candidate, token_ids)
        exact = SameShapeComparison(own, controls, unit_error, lengths, follows)
        exact.add(PromptPasses.repeated_pairs, same_tokens=True)
        exact.add(PromptPasses.same_shape_pairs)
        values["same_shape_differences"] = exact.total
        same_shape, notes = exact.differences, exact.notes
        if dtype_error.usable:
            of_reference = _OfReference(controls, lengths, unit_error, notes)
            values |= _consistency(own, of_reference, unit_error, left_out)
            served = SelfComparison(candidate, oracle, dtype_error_logits, unit, 2, lengths)
            values |= served_values(served, own, controls, left_out)
            paths, notes = served.errors, [*notes, *served.notes]
    return Sample(
        unit=unit,
        weight=len(token_ids),
        values=values,
        identical=torch.equal(host_logits(reference.full_logits(token_ids)), logits),
        findings=first_finding(mismatches, logits, oracle, token_ids, unit, reference.decode),
        details={
            "near_ties": mismatches.near_ties,
            "dtype_error_rms": float(dtype_error.errors.square().mean().sqrt()),
            "rounding_floor": dtype_error.floor,
            "same_shape": same_shape,
            "paths": paths,
            "left_out": left_out,
            "notes": notes,
            "not_judged": {k: why for k, why in left_out.items() if k in (_CACHED, *SERVED)},
        },
        seconds=time.perf_counter() - started,
    )


def _control_passes(
    control: Callable[[], EquivalenceEngine] | None, token_ids: Sequence[int], padded_ends: bool
) -> Callable[[], PromptPasses] | None:
    """The control's passes over the same prompt, made when first asked for."""
    if control is None:
        return None
    return cache(lambda: PromptPasses(control(), token_ids, padded_ends=padded_ends))


def _check_shapes(name: str, oracle: torch.Tensor, *others: torch.Tensor) -> None:
    for logits in others:
        if logits.shape != oracle.shape:
            raise InvalidComparisonError(
                f"logits of candidate {name!r} or its dtype error are {tuple(logits.shape)}, the "
                f"oracle's {tuple(oracle.shape)}: another vocabulary, or another number of tokens"
            )


def _distances(logits: torch.Tensor, oracle: torch.Tensor) -> dict[str, float]:
    """SQNR in dB (infinite for equal logits), the smallest cosine, the largest error."""
    logits, oracle = seen_by_softmax(logits, oracle)
    error = logits - oracle
    noise = float(error.square().sum())
    signal = oracle.square().sum()
    cosines = torch.nn.functional.cosine_similarity(logits, oracle, dim=-1)
    return {
        "sqnr_db": float(10 * torch.log10(signal / noise)) if noise else float("inf"),
        "cosine": float(cosines.min().clamp(-1, 1)) if noise else 1.0,
        "max_logit_error": float(error.abs().max()),
    }


@dataclass(frozen=True)
class _OfReference:
    """What the reference's own weights differ by on a prompt, in ``unit_error``; ``notes`` say so
    where that is no rounding."""

    control: Callable[[], PromptPasses] | None
    lengths: Callable[[], Difference]
    unit_error: float
    notes: list[str]

    def on_this_way(self, name: str) -> float:
        """By the same comparison."""
        if self.control is None:
            return 0.0
        own = _CONSISTENCY[name](self.control()) / self.unit_error
        if own > OUTPUT_FACTOR:
            self._note(name, own)
        return own

    def by_length(self, name: str) -> float:
        """In plain passes of other lengths; those that are compared for causality have one."""
        effect = Difference() if name == _CAUSALITY else self.lengths()
        if effect.is_rounding:
            return 0.0
        self._note("plain passes of other lengths", effect.ratio)
        return effect.ratio

    def _note(self, what: str, ratio: float) -> None:
        note = (
            f"{what}: the reference's own weights differ too, by {ratio:.3g} times the error of "
            "the dtype; the candidate is held to that"
        )
        if note not in self.notes:
            self.notes.append(note)


def _consistency(
    own: PromptPasses,
    of_reference: _OfReference,
    unit_error: float,
    left_out: dict[str, str],
) -> dict[str, float]:
    """The three consistency ratios; ``unit_error`` is what two runs may differ by in this dtype.

    Where one is above what is granted, what the reference's own weights differ by takes the place
    of ``unit_error``.
    """
    ratios = {}
    for name, error in _CONSISTENCY.items():
        if name == _CACHED and Capability.CACHE not in own.engine.capabilities:
            left_out[name] = f"engine {own.engine.name!r} has no cache to drive"
            continue
        ratio, held_to = error(own) / unit_error, 1.0
        for of_control in (of_reference.on_this_way, of_reference.by_length):
            if ratio / held_to > OUTPUT_FACTOR:
                held_to = max(held_to, of_control(name))
        ratios[name] = ratio / held_to
    return ratios


def _causality_error(own: PromptPasses) -> float:
    """Change of the worst row before a cut when all tokens from the cut on become others."""
    return max(
        float(row_rms(_error(changed, own.logits[:cut])).max())
        for cut, changed in own.behind.items()
    )


def _cached_error(own: PromptPasses) -> float:
    """RMS over the rows that came through the cache, the prompt's second half token by token.

    The other ways through the cache have a gate of their own (`kv_cache`).
    """
    prefill = max(1, len(own.ids) // 2)
    some = own.ids[: prefill + DECODE_STEPS]
    rows = able(own.engine, CachedEngine).cached_logits(some, prefill)
    return rms(_error(rows, own.logits[: len(some)])[prefill:])


def _batch_error(own: PromptPasses) -> float:
    """RMS over a row's positions, of the worst row of the batch, each against itself alone.

    All rows are beginnings of the prompt, for whose positions the dtype error speaks; of the row
    that pads the others, only those count.
    """
    half = own.rows[1]
    alone = {len(half): own.engine.full_logits(half), len(own.ids): own.logits}
    return max(
        rms(_error(row[: len(own.ids)], alone.get(len(row), own.logits))) for row in own.batch
    )


def _error(rows: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    return logit_error(host_logits(rows), host_logits(exact))


_CACHED = "cached_error_ratio"
_CAUSALITY = "causality_error_ratio"
_CONSISTENCY: dict[str, Callable[[PromptPasses], float]] = {
    _CAUSALITY: _causality_error,
    "batch_error_ratio": _batch_error,
    _CACHED: _cached_error,
}
