"""The KV cache of a model: is what comes through it what comes without it, and what does it cost?

Ways through the cache that must all give the plain pass's logits, up to the dtype's own rounding:
one token at a time from the first; prefill in chunks; rows of different lengths in one left-padded
batch; wrong tokens computed and taken back, as speculative decoding does; and the model library's
own generation. The error is the RMS over the rows that came through the cache, in units of twice
the dtype error's worst position: each of the two runs may err by as much (`equivalence` has the
reasons). Where the shapes stay the same, no bit may differ: other tokens behind, other rows beside,
other tokens taken back.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import torch
from infopt_reference.attention import BlockAllocator

from pytest_infopt import MeasuredTable, Plot, Sample
from pytest_infopt.engines.base import (
    CannotCropError,
    Capability,
    KVSizeEngine,
    ServingPathsEngine,
    able,
)
from pytest_infopt.errors import NotSupportedError
from pytest_infopt.measure import (
    Difference,
    Pair,
    SameShapeComparison,
    SelfComparison,
    host_logits,
    shapes_follow_tokens,
)

from ..kv_formula import FormulaCheck
from .cache_passes import CacheEngine, CachePasses, Routes
from .growth import fitted_exponent
from .step_pair import TIMED_STEPS

GENERATED = 5  # tokens by the library's own generation
BLOCK_SIZE = 16  # tokens of a block, as vLLM's default
_GENERATION = "the library's generation"
Way = Callable[[CachePasses], Routes]

# Each way, and the passes of one shape that show whether it is clean.
_WAYS: dict[str, tuple[Way, Callable[[CachePasses], Mapping[str, Pair]] | None]] = {
    "token by token": (CachePasses.token_by_token, None),
    "chunked prefill": (CachePasses.chunked_prefill, CachePasses.other_tokens_behind),
    "ragged batch": (CachePasses.ragged_batch, CachePasses.other_rows),
    "tokens taken back": (CachePasses.tokens_taken_back, CachePasses.other_tokens_taken_back),
}


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
    has the use of both). A way that the cache refuses, or the control cannot go either, is left
    out, and ``details["left_out"]`` says why. Raises
    InvalidComparisonError where the oracle is no finer than the engine's dtype, or the prompt has
    fewer than two tokens; NotSupportedError where no way is left.
    """
    started = time.perf_counter()
    found = SelfComparison(engine, oracle, plain, unit, least_tokens=2, lengths=lengths)
    passes = CachePasses(engine, token_ids)
    controls = None if control is None else cache(lambda: CachePasses(control(), token_ids))
    uncached = host_logits(passes.plain)
    follows = partial(shapes_follow_tokens, engine, token_ids)
    exact = SameShapeComparison(passes, controls, found.two_runs, lengths, follows)
    left_out = {}
    for name, (way, same_shape) in _WAYS.items():
        try:
            routes = way(passes)
        except CannotCropError as error:
            left_out[name] = f"this cache cannot be cropped: {error}"
            continue
        except Exception as error:
            if controls is None or not _refuses(controls(), way):
                raise
            left_out[name] = f"the reference's own model refuses: {error}"
            continue
        for route, (rows, first) in routes.items():
            pair = partial(_control_pair, controls, way, route)
            found.add(route, rows, uncached[: len(rows)], first=first, control=pair)
        if same_shape is not None:
            exact.add(same_shape)
    if not found.errors:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise NotSupportedError(f"{unit}: no way through the cache is left ({reasons})")
    _add_generated(found, passes, controls, left_out)
    notes = [f"not tried: {name}: {reason}" for name, reason in left_out.items()]
    return Sample(
        unit=unit,
        weight=len(token_ids),
        values={
            **found.values("kv_error_ratio", "kv_greedy_mismatches"),
            "kv_same_shape_differences": exact.total,
        },
        details={
            **found.details(),
            **exact.details(),
            "left_out": left_out,
            "notes": [*found.notes, *exact.notes, *notes],
        },
        seconds=time.perf_counter() - started,
    )


def _refuses(passes: CachePasses, way: Callable[[CachePasses], object]) -> bool:
    try:
        way(passes)
    except Exception:
        return True
    return False


def _control_pair(
    controls: Callable[[], CachePasses] | None, way: Way, route: str
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """What the control makes of a route, and of the plain pass; None where it cannot go there."""
    if controls is None or _refuses(controls(), way):
        return None
    rows = host_logits(way(controls())[route][0])
    return rows, host_logits(controls().plain)[: len(rows)]


def _add_generated(
    found: SelfComparison,
    passes: CachePasses,
    controls: Callable[[], CachePasses] | None,
    left_out: dict[str, str],
) -> None:
    """The library's own generation: each of its tokens is the plain pass's greedy one."""
    engine = passes.engine
    if Capability.SERVING_PATHS not in engine.capabilities:
        return
    try:
        tokens, exact = _generated(passes)
    except Exception as error:
        refused = isinstance(error, NotSupportedError)
        if not refused and (controls is None or not _refuses(controls(), _generated)):
            raise
        left_out[_GENERATION] = str(error)
        return
    found.add_tokens(
        _GENERATION,
        tokens,
        exact,
        control=lambda: None if controls is None else _generated(controls()),
    )


def _generated(passes: CachePasses) -> tuple[list[int], torch.Tensor]:
    """Tokens behind the prompt, and the plain pass's logits [tokens, V] that they follow from."""
    engine = passes.engine
    prompt = passes.ids[: engine.context_window - GENERATED]
    tokens = able(engine, ServingPathsEngine).library_tokens(prompt, GENERATED)
    logits = engine.full_logits([*prompt, *tokens[:-1]])
    return tokens, host_logits(logits)[-GENERATED:]


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
    plot = Plot("tokens", columns[1:3], "time of a step, ms", log_x=True, log_y=True)
    return MeasuredTable("cost of a decoding step", columns, rows, tuple(notes), plot)


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
    plot = Plot("tokens", columns[2:4], "KV cache, MiB", group="batch")
    return MeasuredTable("KV cache memory", columns, rows, plot=plot)


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
    plot = Plot("layout", ("MiB",), "KV memory, MiB", "bar", ordered=True)
    return MeasuredTable("paged against contiguous KV memory", columns, rows, notes, plot)
