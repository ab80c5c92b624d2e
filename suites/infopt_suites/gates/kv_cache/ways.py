"""The KV cache of a model: is what comes through it what comes without it, and what does it cost?

Ways through the cache that must all give the plain pass's logits, up to the dtype's own rounding:
one token at a time from the first; prefill in chunks; rows of different lengths in one left-padded
batch; wrong tokens computed and taken back, as speculative decoding does. The error is the RMS over
the rows that came through the cache, in units of twice the dtype error's worst position: each of
the two runs may err by as much (`equivalence` has the reasons).

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Protocol

import torch
from infopt_reference.attention import BlockAllocator

from pytest_infopt import MeasuredTable, Sample
from pytest_infopt.engines.base import (
    CachedEngine,
    CannotCropError,
    KVSizeEngine,
    WholeLogitsEngine,
)
from pytest_infopt.errors import NotSupportedError
from pytest_infopt.measure import Difference, SelfComparison, host_logits

from ..kv_formula import FormulaCheck
from .growth import fitted_exponent

TIMED_STEPS = 2  # whose mean is the cost of a step at a length
_REJECTED = 2  # wrong tokens before each pass
BLOCK_SIZE = 16  # tokens of a block, as vLLM's default


class CacheEngine(WholeLogitsEngine, CachedEngine, KVSizeEngine, Protocol):
    """What the KV cache's gate takes."""


Routes = dict[str, tuple[torch.Tensor, int]]  # logits, and the first row through the cache


def measure_kv_prompt(
    engine: CacheEngine,
    oracle: torch.Tensor,
    plain: torch.Tensor,
    token_ids: Sequence[int],
    unit: str,
    control: Callable[[], CacheEngine] | None = None,
    lengths: Callable[[], Difference] = Difference,
) -> Sample:
    """Every way through the cache on one prompt, against the engine's own plain pass.

    ``oracle`` and ``plain`` [T, V] are the reference's logits in the widest dtype and in the
    engine's. ``control`` gives an engine of the reference's weights in this dtype; it goes the same
    way where the engine's logits differ; ``lengths`` gives its `length_effect` (`SelfComparison`
    has the use of both). A way that the cache refuses, or the
    control cannot go either, is left out, and ``details["left_out"]`` says why. Raises
    InvalidComparisonError where the oracle is no finer than the engine's dtype, or the prompt has
    fewer than two tokens; NotSupportedError where no way is left.
    """
    started = time.perf_counter()
    found = SelfComparison(engine, oracle, plain, unit, least_tokens=2, lengths=lengths)
    uncached = host_logits(engine.full_logits(token_ids))
    left_out = {}
    for way in (_token_by_token, _chunked_prefill, _ragged_batch, _tokens_taken_back):
        try:
            routes = way(engine, token_ids)
        except CannotCropError as error:
            left_out[_title(way)] = f"this cache cannot be cropped: {error}"
            continue
        except Exception as error:
            if control is None or not _refuses(control(), way, token_ids):
                raise
            left_out[_title(way)] = f"the reference's own model refuses: {error}"
            continue
        own = _ControlRoutes(control, way, token_ids)
        for name, (rows, first) in routes.items():
            exact = uncached[: len(rows)]
            found.add(name, rows, exact, first=first, control=partial(own.pair, name))
    if not found.errors:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise NotSupportedError(f"{unit}: no way through the cache is left ({reasons})")
    notes = [f"not tried: {name}: {reason}" for name, reason in left_out.items()]
    return Sample(
        unit=unit,
        weight=len(token_ids),
        values=found.values("kv_error_ratio", "kv_greedy_mismatches"),
        details={
            **found.details(),
            "left_out": left_out,
            "notes": [*found.notes, *notes],
        },
        seconds=time.perf_counter() - started,
    )


Way = Callable[[CacheEngine, Sequence[int]], Routes]


def _title(way: Way) -> str:
    return way.__name__.strip("_").replace("_", " ")


def _refuses(engine: CacheEngine, way: Way, ids: Sequence[int]) -> bool:
    try:
        way(engine, ids)
    except Exception:
        return True
    return False


class _ControlRoutes:
    """What the control makes of a prompt by a way, computed when first asked for."""

    def __init__(
        self, control: Callable[[], CacheEngine] | None, way: Way, ids: Sequence[int]
    ) -> None:
        self._control, self._way, self._ids = control, way, ids

    @cached_property
    def _routes(self) -> Routes:
        if self._control is None or _refuses(self._control(), self._way, self._ids):
            return {}
        return self._way(self._control(), self._ids)

    def pair(self, route: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        if route not in self._routes or self._control is None:
            return None
        rows = host_logits(self._routes[route][0])
        return rows, host_logits(self._control().full_logits(self._ids))[: len(rows)]


def _token_by_token(engine: CacheEngine, ids: Sequence[int]) -> Routes:
    return {"token by token": (engine.through_cache([ids], [1])[0], 1)}


def _chunked_prefill(engine: CacheEngine, ids: Sequence[int]) -> Routes:
    chunks = _chunks(len(ids))
    return {"chunked prefill": (engine.through_cache([ids], chunks)[0], chunks[0])}


def _ragged_batch(engine: CacheEngine, ids: Sequence[int]) -> Routes:
    count = len(ids)
    half = max(1, count // 2)
    longer = [*ids, *ids[: max(1, count // 4)]][: engine.context_window]
    # The longer row pads the other two; what it repeats would need a dtype error of its own.
    rows = engine.through_cache([ids[:half], ids, longer], [len(longer) - half])
    return {"ragged batch, short row": (rows[0], 0), "ragged batch": (rows[1], count - half)}


def _tokens_taken_back(engine: CacheEngine, ids: Sequence[int]) -> Routes:
    # Wrong tokens need positions of their own behind those that stay.
    kept = ids[: engine.context_window - _REJECTED]
    chunks = _chunks(len(kept))
    rows = engine.through_cache([kept], chunks, rejected=_REJECTED)[0]
    return {"tokens taken back": (rows, chunks[0])}


def _chunks(count: int) -> list[int]:
    """Sizes of at most three passes that ``count`` tokens are cut into."""
    third = -(-count // 3)
    return [min(third, count - start) for start in range(0, count, third)]


def measure_kv_growth(
    engine: CacheEngine,
    lengths: Sequence[int],
    batches: Sequence[int],
    reference: KVSizeEngine | None = None,
) -> Sample:
    """What the cache holds at each length and batch size, and what a step of the first one costs.

    ``kv_size_error``, in bytes, is the largest |held − formula| of them; it is left out where no
    formula is known that the ``reference``'s own cache keeps.
    """
    started = time.perf_counter()
    timed = engine.cache_readings(lengths, batches[0], TIMED_STEPS)
    readings = timed + [r for batch in batches[1:] for r in engine.cache_readings(lengths, batch)]
    check = FormulaCheck(engine, reference)
    for reading in readings:
        check.add(reading.tokens, reading.batch, reading.nbytes)
    return Sample(
        unit="growth",
        weight=len(readings),
        values=check.values("kv_size_error"),
        details={
            "readings": [[r.tokens, r.batch, r.nbytes] for r in readings],
            "predicted": check.predicted,
            "step_seconds": [[r.tokens, r.step_seconds] for r in timed],
            "uncached_seconds": [engine.uncached_step_seconds(length) for length in lengths],
            **check.details("kv_size_error"),
        },
        seconds=time.perf_counter() - started,
    )


def step_cost_table(growth: Sample) -> MeasuredTable:
    """A step's cost with and without the cache against length, with fitted exponents."""
    lengths = [tokens for tokens, _ in growth.details["step_seconds"]]
    cached = [seconds for _, seconds in growth.details["step_seconds"]]
    uncached = growth.details["uncached_seconds"]
    notes = []
    for name, seconds in (("with the cache", cached), ("without", uncached)):
        exponent = fitted_exponent(lengths, seconds)
        if exponent is not None:
            notes.append(f"{name} a step's cost grows as length^{exponent:.2f}")
    rows = tuple(
        (length, 1000 * with_cache, 1000 * without, without / with_cache)
        for length, with_cache, without in zip(lengths, cached, uncached, strict=True)
    )
    columns = ("tokens", "step with cache, ms", "step without, ms", "without / with")
    return MeasuredTable("cost of a decoding step", columns, rows, tuple(notes))


def size_table(growth: Sample) -> MeasuredTable:
    """KV memory against length and batch, held and by the formula."""
    rows = tuple(
        (
            tokens,
            batch,
            nbytes / 2**20,
            None if predicted is None else predicted / 2**20,
            None if predicted is None else nbytes - predicted,
        )
        for (tokens, batch, nbytes), predicted in zip(
            growth.details["readings"], growth.details["predicted"], strict=True
        )
    )
    columns = ("tokens", "batch", "held, MiB", "formula, MiB", "difference, bytes")
    return MeasuredTable("KV cache memory", columns, rows)


def paged_table(bytes_per_token: int, lengths: Sequence[int], capacity: int) -> MeasuredTable:
    """Sequences of these lengths in pages, against a contiguous place of ``capacity`` tokens each.

    The pages are really allocated, without memory behind them.
    """
    blocks = -(-capacity // BLOCK_SIZE) * len(lengths)
    allocator = BlockAllocator(blocks, BLOCK_SIZE)
    for index, length in enumerate(lengths):
        allocator.allocate(index, length)
    held = (blocks - allocator.pool.num_free) * BLOCK_SIZE
    used, reserved = sum(lengths), capacity * len(lengths)
    rows = tuple(
        (name, tokens, tokens * bytes_per_token / 2**20, (tokens - used) / tokens)
        for name, tokens in (
            ("tokens alone", used),
            (f"pages of {BLOCK_SIZE}", held),
            ("contiguous", reserved),
        )
    )
    share = 100 * (1 - held / reserved)
    effect = f"save {share:.1f} %" if share >= 0 else f"take {-share:.1f} % more"
    notes = (f"{len(lengths)} documents against places of {capacity} tokens: pages {effect}",)
    columns = ("layout", "tokens of room", "MiB", "share unused")
    return MeasuredTable("paged against contiguous KV memory", columns, rows, notes)
