"""The KV cache beyond the boundaries that model and cache declare, and what it keeps.

A prompt that is longer than any other goes through the cache in chunks, and its last tokens one by
one: a ring that wraps too early, a window that forgets its edge, a block that is overwritten show
in what comes after. What the last step is given of the cache must have the resolution of the dtype
in which keys and values are said to be kept.

Legend: S the last positions of the prompt, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import cycle, islice

import torch

from pytest_infopt import MeasuredTable, Sample
from pytest_infopt.measure import (
    Difference,
    SelfComparison,
    dtype_named,
    host_logits,
    resolution_of,
)

from ..self_comparisons import observed_table
from .cache_passes import CacheEngine

TAIL = 4  # tokens that are decoded one by one
CHUNKS = 4  # passes of the prefill
_TOKENS = 64  # whose keys and values are looked at
_FALSE_ALARMS = 1e-9  # for each tensor


def long_prompt_of(
    stream: Sequence[int], tokens: int, window: int, boundaries: Mapping[str, int], reach: int
) -> tuple[list[int], list[str]]:
    """A prompt of ``tokens`` tokens, or of more where a boundary below ``reach`` asks for them; and
    notes on boundaries that it does not pass. The stream is read round and round."""
    within = [size + TAIL + 1 for size in boundaries.values() if size < reach]
    length = min(max([tokens, *within]), window)
    beyond = {name: size for name, size in boundaries.items() if size + TAIL >= length}
    notes = [
        f"the cache was not compared beyond {name} = {size}; raise caches.long_tokens to reach it"
        for name, size in beyond.items()
    ]
    return list(islice(cycle(stream), length)), notes


def measure_long_prompt(
    engine: CacheEngine,
    oracle: torch.Tensor,
    plain: torch.Tensor,
    token_ids: Sequence[int],
    unit: str,
    control: Callable[[], CacheEngine] | None = None,
    lengths: Callable[[], Difference] = Difference,
    requested: str | None = None,
) -> Sample:
    """The end of a long prompt through the cache, against the engine's own plain pass.

    ``oracle`` and ``plain`` [T, V] are the reference's logits of a short prompt in the widest dtype
    and in the engine's: they tell what this dtype costs. ``control`` gives the reference's weights
    in this dtype, which go the same way where the engine's logits differ, and ``lengths`` their
    `length_effect` (`SelfComparison`). ``requested`` is the format of keys and values that was
    asked for; by default the engine's dtype.
    """
    started = time.perf_counter()
    found = SelfComparison(engine, oracle, plain, unit, least_tokens=1, lengths=lengths)
    tail = min(TAIL, len(oracle), len(token_ids) - 1)
    reads: dict[str, torch.Tensor] = {}
    rows = _through_cache(engine, token_ids, tail, reads)
    exact = host_logits(engine.full_logits(token_ids)[-tail:])
    route = f"the end of {len(token_ids)} tokens"
    found.add(route, rows, exact, control=partial(_control_pair, control, token_ids, tail))
    coarse = coarse_tensors(reads, dtype_named(engine.dtype), token_ids)
    notes = list(found.notes)
    if coarse and control is not None:
        own: dict[str, torch.Tensor] = {}
        _through_cache(control(), token_ids, tail, own)
        known = coarse_tensors(own, dtype_named(engine.dtype), token_ids)
        coarse = {name: bits for name, bits in coarse.items() if name not in known}
    if coarse:
        name, bits = min(coarse.items(), key=lambda item: item[1])
        notes.append(
            f"{len(coarse)} of {len(reads)} tensors of the cache are coarser than {engine.dtype}: "
            f"{name} lies on about 2^{bits:.1f} numbers"
        )
    return Sample(
        unit=unit,
        weight=len(token_ids),
        values={
            **found.values("kv_long_error_ratio", "kv_long_greedy_mismatches"),
            "kv_coarse_tensors": float(len(coarse)),
        },
        details={
            **found.details(),
            "coarse": coarse,
            "notes": notes,
            "tables": [_observed(requested or engine.dtype, token_ids, reads, coarse).to_json()],
        },
        seconds=time.perf_counter() - started,
    )


def coarse_tensors(
    reads: Mapping[str, torch.Tensor], dtype: torch.dtype, token_ids: Sequence[int]
) -> dict[str, float]:
    """Keys, values and states that do not have the resolution of ``dtype``, with the log2 of how
    many numbers they lie on.

    Tensors [..., T, D] are looked at along both of their last axes: a scale belongs to a token or
    to a channel. Of tokens that occur again, one is enough: the others have equal values by right.
    """
    first = {token: place for place, token in reversed(list(enumerate(token_ids)))}
    places = sorted(first.values())
    chosen = places[:: -(-len(places) // _TOKENS)]
    found = {}
    for name, tensor in reads.items():
        if tensor.ndim < 3:
            continue
        if not tensor.is_floating_point() or tensor.dtype.itemsize < dtype.itemsize:
            found[name] = 8.0 * tensor.dtype.itemsize
            continue
        if tensor.shape[-2] == len(token_ids):
            tensor = tensor[..., chosen, :]
        axes = [resolution_of(t, dtype) for t in (tensor, tensor.transpose(-1, -2))]
        if any(axis.coarser(_FALSE_ALARMS) for axis in axes):
            found[name] = min(axis.bits for axis in axes)
    return found


def _observed(
    requested: str,
    token_ids: Sequence[int],
    reads: Mapping[str, torch.Tensor],
    coarse: Mapping[str, float],
) -> MeasuredTable:
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in reads.values()})
    held = max((t.shape[-2] for t in reads.values() if t.ndim > 2), default=0)
    return observed_table(
        (
            "keys, values and states",
            requested,
            ", ".join(dtypes),
            f"{len(reads)} tensors, {len(coarse)} of them coarser",
        ),
        ("tokens through the cache", len(token_ids), len(token_ids), f"up to {held} held"),
    )


def _through_cache(
    engine: CacheEngine, token_ids: Sequence[int], tail: int, reads: dict[str, torch.Tensor]
) -> torch.Tensor:
    chunk = -(-len(token_ids) // CHUNKS)
    return engine.cached_tail(token_ids, tail, chunk, reads)


def _control_pair(
    control: Callable[[], CacheEngine] | None, token_ids: Sequence[int], tail: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    if control is None:
        return None
    rows = host_logits(_through_cache(control(), token_ids, tail, {}))
    return rows, host_logits(control().full_logits(token_ids)[-tail:])
