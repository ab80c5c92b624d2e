"""How far a candidate's logits lie from the exact ones, in units of what its number format costs.

Every error ratio here is

    error / (dtype error + floor/2)

(`dtype_error`), both measured on the same prompt: 2 is the limit, and 0 means that no bit differs.
A row's error is its root mean square over V, without the constant that no softmax sees
(`logit_error`). Where the candidate errs by more than that, the reference's weights pass the prompt
several times, each time rounded otherwise (`control_arms`): a router's near-tie explains what they
err by as well.

The three consistency ratios compare the candidate with itself, so that they are about its cache,
its padding and its mask, whatever its weights lost (`SelfComparison`). Only causality, where both
runs have the same shape and so the same rounding, counts its worst row.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import torch

from pytest_infopt import Sample
from pytest_infopt.engines.base import CachedEngine, Capability, WholeLogitsEngine, able
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.measure import (
    Difference,
    Pair,
    SameShapeComparison,
    SelfComparison,
    compare_with_oracle,
    dtype_error_of,
    dtype_named,
    first_finding,
    host_logits,
    logit_error,
    row_rms,
    seen_by_softmax,
    shapes_follow_tokens,
)

from .prompt_passes import EquivalenceEngine, PromptPasses
from .served_paths import SERVED, Path, add_pairs, served_values

DECODE_STEPS = 8  # a fault of the cache shows in the first few


def measure_prompt(
    candidate: EquivalenceEngine,
    reference: WholeLogitsEngine,
    oracle_logits: torch.Tensor,
    dtype_error_logits: torch.Tensor,
    token_ids: Sequence[int],
    unit: str,
    control: Callable[[], EquivalenceEngine] | None = None,
    lengths: Callable[[], Difference] = Difference,
    arms: Callable[[], Sequence[torch.Tensor]] = list,
    *,
    padded_ends: bool = True,
) -> Sample:
    """All equivalence metrics of one prompt, each the worst of this prompt.

    ``oracle_logits`` [T, V] are the reference's in float64 (or the widest dtype that fits),
    ``dtype_error_logits`` [T, V] the reference's in the candidate's dtype; ``control`` gives an
    engine of these weights in this dtype, which is compared with itself where the candidate differs
    from itself by more than is granted, ``lengths`` its `length_effect`, and ``arms`` its
    `control_arms`, by which errors against the oracle are judged. The cache is left out where the
    candidate has none, and so are the ratios when oracle and dtype error are equal: see
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
    found = compare_with_oracle(logits, oracle, dtype_error, dtype_named(candidate.dtype), arms)
    mismatches = found.mismatches
    values["greedy_mismatches"] = float(len(mismatches.illegal))
    if dtype_error.usable:
        values["logit_error_ratio"] = found.ratio
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
        follows = partial(shapes_follow_tokens, candidate, token_ids)
        exact = SameShapeComparison(own, controls, 2 * dtype_error.worst, lengths, follows)
        exact.add(PromptPasses.repeated_pairs, same_tokens=True)
        exact.add(PromptPasses.same_shape_pairs)
        values["same_shape_differences"] = exact.total
        same_shape, notes = exact.differences, exact.notes
        if dtype_error.usable:
            comparison = partial(SelfComparison, candidate, oracle, dtype_error_logits, unit, 2)
            ratios, more = _consistency(comparison, own, controls, lengths, left_out)
            served = comparison(lengths)
            values |= ratios | served_values(served, own, controls, left_out)
            paths, notes = served.errors, [*notes, *more, *served.notes]
    notes += [found.note] if found.note else []
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


def _consistency(
    comparison: Callable[[Callable[[], Difference]], SelfComparison],
    own: PromptPasses,
    controls: Callable[[], PromptPasses] | None,
    lengths: Callable[[], Difference],
    left_out: dict[str, str],
) -> tuple[dict[str, float], list[str]]:
    """The three consistency ratios, and notes; ``comparison`` takes what gives the length effect.

    Passes that are compared for causality have one length.
    """
    ratios, notes = {}, []
    for name, path in _CONSISTENCY.items():
        if name == _CACHED and Capability.CACHE not in own.engine.capabilities:
            left_out[name] = f"engine {own.engine.name!r} has no cache to drive"
            continue
        found = comparison(Difference if name == _CAUSALITY else lengths)
        add_pairs(found, path, path(own), controls)
        ratios[name] = max(found.errors.values())
        notes += found.notes
    return ratios, notes


def _behind(own: PromptPasses) -> Mapping[str, Pair]:
    """The worst row before each cut, when all tokens from the cut on become others."""
    pairs = {}
    for cut, changed in own.behind.items():
        exact = own.logits[:cut]
        errors = row_rms(logit_error(host_logits(changed), host_logits(exact)))
        worst = slice(int(errors.argmax()), int(errors.argmax()) + 1)
        pairs[f"other tokens from position {cut} on"] = changed[worst], exact[worst]
    return pairs


def _cached(own: PromptPasses) -> Mapping[str, Pair]:
    """Rows that came through the cache, the prompt's second half token by token.

    The other ways through the cache have a gate of their own (`kv_cache`).
    """
    prefill = max(1, len(own.ids) // 2)
    some = own.ids[: prefill + DECODE_STEPS]
    rows = able(own.engine, CachedEngine).cached_logits(some, prefill)
    return {"the cache": (rows[prefill:], own.logits[prefill : len(some)])}


def _batched(own: PromptPasses) -> Mapping[str, Pair]:
    """Each row of the batch against itself alone.

    All rows are beginnings of the prompt, for whose positions the dtype error speaks; of the row
    that pads the others, only those count.
    """
    half = own.rows[1]
    alone = {len(half): own.engine.full_logits(half), len(own.ids): own.logits}
    return {
        f"row {place} of a batch": (row[: len(own.ids)], alone.get(len(row), own.logits))
        for place, row in enumerate(own.batch)
    }


_CACHED = "cached_error_ratio"
_CAUSALITY = "causality_error_ratio"
_CONSISTENCY: dict[str, Path] = {
    _CAUSALITY: _behind,
    "batch_error_ratio": _batched,
    _CACHED: _cached,
}
