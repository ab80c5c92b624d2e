"""What batching does to an engine: whether results stay the same, and what time it gains or costs.

Three questions, of which each has its samples:

    invariance   is a prompt's row in a batch of 1…128 what the prompt gives alone? Kernels choose
                 other orders of summation for other shapes, so a row may differ by rounding, and by
                 no more; scales or outliers that are taken over the whole batch let rows see each
                 other, which is another matter
    throughput   requests a second through a dynamic batcher against one after the other
    window       what waiting for others adds to a request's latency, on a simulated trace

Legend: T positions, V vocabulary. PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import Protocol, TypeVar

import numpy as np
import torch
from infopt_reference.batching import (
    BatchFunction,
    BatchPolicy,
    CostModel,
    DynamicBatcher,
    TraceRequest,
    simulate,
)

from pytest_infopt import MeasuredTable, Sample
from pytest_infopt.engines.base import (
    BatchEngine,
    Engine,
    WholeLogitsEngine,
)
from pytest_infopt.errors import InfoptError, InvalidComparisonError
from pytest_infopt.measure import (
    Difference,
    Pair,
    SameShapeComparison,
    SelfComparison,
    host_logits,
    rows_of_passes,
    shapes_follow_tokens,
)

from ..self_comparisons import observed_table

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
LARGEST_LOGITS = 2**30  # bytes of a batch's logits, which engines compute at once

Item = TypeVar("Item")
Result = TypeVar("Result")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]


class BatchingEngine(WholeLogitsEngine, BatchEngine, Protocol):
    """What comparing rows takes."""


# Invariance


def measure_batch_invariance(
    engine: BatchingEngine,
    oracle: torch.Tensor,
    plain: torch.Tensor,
    prompt: Sequence[int],
    neighbours: Sequence[Sequence[int]],
    unit: str,
    sizes: Sequence[int] = BATCH_SIZES,
    control: Callable[[], BatchingEngine] | None = None,
    lengths: Callable[[], Difference] = Difference,
) -> Sample:
    """A prompt's rows in batches of each size against the prompt alone.

    It is the first row, in a batch of three or more the last, and of five or more the middle one.
    The row behind the first has other tokens and is longer: it pads the prompt's, and is compared,
    too. ``neighbours`` are the other rows, over and over where they are too few. With other
    neighbours of the same lengths, and at another place of the batch, no bit of the prompt's rows
    may differ (`SameShapeComparison`).

    ``oracle`` and ``plain`` [T, V] are the reference's logits of the prompt in the widest dtype and
    in the engine's (`SelfComparison`). Sizes whose logits would take more than `LARGEST_LOGITS`
    bytes are left out, and named in ``details["left_out"]``. ``control`` gives the reference's
    weights in this dtype, which go through the same batch where the engine's rows differ, and
    ``lengths`` gives their `length_effect` (`SelfComparison` has the use of both). Of an engine
    whose modules are at hand, ``rows_together_share`` is the share of a batch's rows that one pass
    computed.

    Raises InvalidComparisonError where the oracle is no finer than the engine's dtype or no size is
    left, ValueError for sizes below 1 or no neighbours, NonFiniteLogitsError for NaN and infinity.
    """
    started = time.perf_counter()
    if not sizes or min(sizes) < 1 or not neighbours:
        raise ValueError(
            f"batch sizes {list(sizes)} with {len(neighbours)} neighbours; give sizes of 1 or "
            "more, and one neighbour at least"
        )
    found = SelfComparison(engine, oracle, plain, unit, least_tokens=1, lengths=lengths)
    follows = partial(shapes_follow_tokens, engine, prompt)
    exact = SameShapeComparison(engine, control, found.two_runs, lengths, follows)
    longer = _others(engine, [*prompt, *prompt[: max(1, len(prompt) // 4)]])
    longer = longer[: engine.context_window]
    alone = {id(row): host_logits(engine.full_logits(row)) for row in (prompt, longer)}
    left_out, together = [], dict[int, int]()
    for size in sizes:
        batch = _Batch(prompt, [longer, *neighbours], size)
        longest = max(map(len, batch.rows))
        if size * longest * engine.vocabulary * found.dtype.itemsize > LARGEST_LOGITS:
            left_out.append(size)
            continue
        with rows_of_passes(engine) as passes:
            rows = engine.batch_logits(batch.rows)
        if passes:
            together[size] = max(passes)
        for place in batch.judged:
            pair = partial(_control_row, control, batch.rows, place, len(prompt))
            expected = alone[id(batch.rows[place])][: len(prompt)]
            found.add(str(size), rows[place][: len(prompt)], expected, control=pair)
        exact.add(partial(batch.same_shape_pairs, known=(engine, rows)))
    if not found.errors:
        raise InvalidComparisonError(
            f"{unit}: logits of the smallest batch are above {LARGEST_LOGITS} bytes; give a prompt "
            f"and neighbours shorter than {max(map(len, [prompt, *neighbours]))} tokens"
        )
    return Sample(
        unit=unit,
        weight=len(prompt),
        values={
            **found.values("batch_invariance_error_ratio", "batch_invariance_mismatches"),
            "batch_same_shape_differences": exact.total,
            **({"rows_together_share": _share(together)} if together else {}),
        },
        details={
            **found.details(),
            **exact.details(),
            "tables": [_observed(sizes, together).to_json()] if together else [],
            "notes": [*found.notes, *exact.notes],
            "left_out": left_out,
        },
        seconds=time.perf_counter() - started,
    )


def _share(together: Mapping[int, int]) -> float:
    """Of the batch of whose rows the smallest share was computed in one pass."""
    return min(rows / size for size, rows in together.items())


def _observed(sizes: Sequence[int], together: Mapping[int, int]) -> MeasuredTable:
    return observed_table(
        *(
            ("rows of a batch", size, size if size in together else None, together.get(size))
            for size in sizes
        )
    )


def _control_row(
    control: Callable[[], BatchingEngine] | None,
    batch: Sequence[Sequence[int]],
    place: int,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    if control is None:
        return None
    row = host_logits(control().batch_logits(batch)[place][:count])
    return row, host_logits(control().full_logits(batch[place])[:count])


class _Batch:
    """A prompt among its neighbours: the first row, the last of three or more, the middle of five
    or more. The first neighbour is longer than the prompt."""

    def __init__(
        self, prompt: Sequence[int], neighbours: Sequence[Sequence[int]], size: int
    ) -> None:
        self.places = sorted({0, *([size - 1] if size > 2 else []), *([size // 2] * (size > 4))})
        others = iter(islice(cycle(neighbours), size))
        self.rows = [prompt if i in self.places else next(others) for i in range(size)]
        self.size = size

    @property
    def judged(self) -> list[int]:
        """The prompt's rows, which are padded, and the row that pads them."""
        return [*self.places, *([1] if self.size > 1 else [])]

    def same_shape_pairs(
        self, engine: BatchingEngine, known: tuple[BatchingEngine, list[torch.Tensor]]
    ) -> dict[str, Pair]:
        """The prompt's rows beside other neighbours of the same lengths, and at other places;
        ``known`` has the rows of an engine's batch."""
        rows = known[1] if known[0] is engine else engine.batch_logits(self.rows)
        pairs = {
            f"{self.size} rows, row {place} for row 0": (rows[place], rows[0])
            for place in self.places[1:]
        }
        if self.size == 1:
            return pairs
        others = engine.batch_logits(
            [row if i in self.places else _others(engine, row) for i, row in enumerate(self.rows)]
        )
        return pairs | {
            f"{self.size} rows, other neighbours of row {place}": (others[place], rows[place])
            for place in self.places
        }


def _others(engine: Engine, token_ids: Sequence[int]) -> list[int]:
    return [(token + 1) % engine.vocabulary for token in token_ids]


# Throughput


def generating(
    engine: BatchEngine,
) -> BatchFunction[tuple[Sequence[int], int], list[int]]:
    """The engine's generation as a batch function of (prompt, number of new tokens).

    It computes in the event loop, which rests meanwhile: for requests that are all there already.
    """

    async def generate(items: list[tuple[Sequence[int], int]]) -> list[list[int]]:
        prompts, counts = zip(*items, strict=True)
        return engine.generate(prompts, counts)

    return generate


def measure_batching_pair(
    batch_function: BatchFunction[Item, Result],
    requests: Sequence[Item],
    policy: BatchPolicy,
    batched_first: bool,
    unit: str,
    loop_factory: LoopFactory | None = None,
) -> Sample:
    """The same requests, all there from the beginning, through a dynamic batcher and one by one.

    ``batching_throughput_ratio`` is the natural log of batched over one-by-one requests a second;
    the caller's coin draws which comes first. Time is that of the event loop, a new one of
    ``loop_factory`` for each side; it includes the batcher's own work, and the window that an
    incomplete last batch waits. ``details["different"]`` counts requests whose results differ.

    Raises InvalidComparisonError where a request fails on either side: times are then of different
    work. ValueError for no requests.
    """
    started = time.perf_counter()
    if not requests:
        raise ValueError(f"{unit}: there are no requests to batch; give one at least")

    async def one_by_one() -> tuple[float, list[Result], float]:
        clock = asyncio.get_running_loop().time
        sent = clock()
        results = [_result(await batch_function([item])) for item in requests]
        return clock() - sent, results, 1.0

    async def batched() -> tuple[float, list[Result], float]:
        clock = asyncio.get_running_loop().time
        async with DynamicBatcher(batch_function, policy) as batcher:
            sent = clock()
            results = await asyncio.gather(*(batcher.submit(item) for item in requests))
            seconds = clock() - sent
        return seconds, list(results), batcher.statistics.mean_batch_size

    sides = (batched, one_by_one) if batched_first else (one_by_one, batched)
    measured = {}
    for side in sides:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            try:
                measured[side] = runner.run(side())
            except InfoptError:
                raise
            except Exception as error:
                raise InvalidComparisonError(
                    f"{unit}: a request failed {side.__name__.replace('_', ' ')}: {error!r}"
                ) from error
    alone, alone_results, _ = measured[one_by_one]
    together, together_results, mean_batch_size = measured[batched]
    if min(alone, together) <= 0:
        raise InvalidComparisonError(
            f"{unit}: {len(requests)} requests took {alone} s one by one and {together} s batched; "
            "give enough of them for the clock to tell"
        )
    return Sample(
        unit=unit,
        weight=len(requests),
        values={"batching_throughput_ratio": math.log(alone / together)},
        details={
            "batched_first": batched_first,
            "requests_per_second": len(requests) / together,
            "one_by_one_requests_per_second": len(requests) / alone,
            "mean_batch_size": mean_batch_size,
            "different": sum(a != b for a, b in zip(alone_results, together_results, strict=True)),
        },
        seconds=time.perf_counter() - started,
    )


def _result(results: Sequence[Result | Exception]) -> Result:
    (result,) = results
    if isinstance(result, Exception):
        raise result
    return result


# The window


def measure_window(
    requests: Sequence[TraceRequest], cost: CostModel, policy: BatchPolicy, unit: str
) -> Sample:
    """What the policy's window adds to requests of a trace, with the engine's cost model.

    Each request's latency in a simulated dynamic batcher, less its latency with the same batcher
    and no window; ``window_latency_seconds`` is the 99 % quantile over the requests. Under load the
    window fills batches that would have gone half empty, so that some requests gain: the mean in
    ``details["mean"]`` may be negative. Raises what `simulate` raises.
    """
    started = time.perf_counter()
    waiting = simulate("dynamic", requests, cost, policy)
    at_once = simulate("dynamic", requests, cost, replace(policy, max_wait=0.0))
    added = np.subtract(waiting.latencies, at_once.latencies)
    return Sample(
        unit=unit,
        weight=len(requests),
        values={"window_latency_seconds": float(np.percentile(added, 99))},
        details={
            "mean": float(added.mean()),
            "largest": float(added.max()),
            "p99_latency": waiting.latency(99),
            "p99_latency_without_window": at_once.latency(99),
            "mean_batch_size": waiting.mean_batch_size,
            "mean_batch_size_without_window": at_once.mean_batch_size,
        },
        seconds=time.perf_counter() - started,
    )
