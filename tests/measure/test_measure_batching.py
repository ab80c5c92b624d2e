"""Batching an engine: rows that see each other, throughput on virtual time, what a window adds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import async_solipsism
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.batching import BatchPolicy, CostModel, TraceRequest
from infopt_suites.gates.batching import pairs
from infopt_suites.gates.batching.pairs import (
    BATCH_SIZES,
    generating,
    measure_batch_invariance,
    measure_batching_pair,
    measure_window,
)
from measure_fakes import ToyTransformer, seeded_ids
from tiny_models import CONFIGS, VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import InvalidComparisonError, NonFiniteLogitsError
from pytest_infopt.measure.dtype_error import OUTPUT_FACTOR, DtypeError, dtype_error_of
from pytest_infopt.measure.row_errors import least_factor
from pytest_infopt.results.sample import Sample

IDS = seeded_ids("batching", 24, ToyTransformer.vocabulary)
NEIGHBOURS = [seeded_ids(f"n{length}", length, ToyTransformer.vocabulary) for length in (9, 24, 31)]
FOUND = 10 * OUTPUT_FACTOR  # what a planted fault has to exceed
MICROSECOND = 1e-6
Batch = Sequence[Sequence[int]]
Rows = list[torch.Tensor]


def invariance(engine: Any, sizes: Sequence[int] = BATCH_SIZES) -> Sample:
    oracle = ToyTransformer(torch.float64).full_logits(IDS)
    plain = ToyTransformer(torch.float32).full_logits(IDS)
    return measure_batch_invariance(engine, oracle, plain, IDS, NEIGHBOURS, "p", sizes)


class Spoiled(ToyTransformer):
    """A toy whose batches a function tampers with."""

    def __init__(self, fault: Callable[[Batch, Rows], Rows]) -> None:
        super().__init__(torch.float32)
        self.spoil = fault
        self.batches: list[list[list[int]]] = []

    def full_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        return self.spoil([token_ids], [super().full_logits(token_ids)])[0]

    def batch_logits(self, prompts: Batch) -> Rows:
        self.batches.append([list(prompt) for prompt in prompts])
        return self.spoil(prompts, super().batch_logits(prompts))


# Invariance


def test_a_sound_engines_rows_keep_to_the_dtypes_own_error() -> None:
    sample = invariance(ToyTransformer(torch.float32))
    assert sample.values["batch_invariance_error_ratio"] <= OUTPUT_FACTOR
    assert sample.values["batch_invariance_mismatches"] == 0
    assert list(sample.details["errors"]) == [str(size) for size in BATCH_SIZES]
    assert sample.details["left_out"] == []


@pytest.mark.parametrize("architecture", CONFIGS)
def test_transformers_models_are_batch_invariant_up_to_rounding(architecture: str) -> None:
    module = make_model(architecture)
    prompt, *neighbours = (seeded_ids(f"t{n}", n, VOCABULARY) for n in (20, 7, 20, 33))

    def engine(dtype: torch.dtype) -> TransformersEngine:
        own = make_model(architecture).to(dtype)
        own.load_state_dict(module.state_dict())
        return TransformersEngine("tiny", own, make_tokenizer(), dtype=dtype)

    plain = engine(torch.float32)
    oracle = engine(torch.float64).full_logits(prompt)
    sample = measure_batch_invariance(
        plain, oracle, plain.full_logits(prompt), prompt, neighbours, "p", (1, 2, 3, 16)
    )
    assert sample.values["batch_invariance_error_ratio"] <= OUTPUT_FACTOR
    assert sample.values["batch_invariance_mismatches"] == 0


def test_the_prompt_is_first_and_last_among_its_neighbours() -> None:
    engine = Spoiled(lambda prompts, rows: rows)
    invariance(engine, (1, 2, 3, 6))
    longer = [(token + 1) % engine.vocabulary for token in [*IDS, *IDS[: len(IDS) // 4]]]
    a, b, _ = NEIGHBOURS
    one, two, _, three, _, six, others = engine.batches  # from two rows on, each with others
    assert (one, two, three) == ([IDS], [IDS, longer], [IDS, longer, IDS])
    assert six == [IDS, longer, a, IDS, b, IDS]
    assert [row == IDS for row in others] == [row == IDS for row in six]
    assert list(map(len, others)) == list(map(len, six))


def coupled(prompts: Batch, rows: Rows) -> Rows:
    """One scale for the whole batch, as an int8 activation quantizer per tensor has."""
    scale = max(float(row.abs().max()) for row in rows) / 127
    return [(row / scale).round() * scale for row in rows]


FAULTS: dict[str, tuple[Callable[[Batch, Rows], Rows], set[int]]] = {
    "rows swapped": (lambda _, rows: rows[1:] + rows[:1], {2, 4, 8, 16, 32, 64, 128}),
    "a kernel of its own from 64 rows on": (
        lambda prompts, rows: [row * (1.01 if len(prompts) >= 64 else 1) for row in rows],
        {64, 128},
    ),
    "the last row is stale": (
        lambda prompts, rows: [*rows[:-1], torch.zeros_like(rows[-1])] if rows[1:] else rows,
        set(BATCH_SIZES) - {1},
    ),
    "a scale for the batch": (coupled, set(BATCH_SIZES) - {1}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_at_the_batch_sizes_that_have_them(name: str) -> None:
    fault, where = FAULTS[name]

    def cut(prompts: Batch, rows: Rows) -> Rows:  # another prompt's rows are more or fewer
        spoiled = fault(prompts, rows)
        return [
            torch.nn.functional.pad(row, (0, 0, 0, len(prompt) - len(row)))
            for prompt, row in zip(prompts, spoiled, strict=True)
        ]

    sample = invariance(Spoiled(cut))
    errors = sample.details["errors"]
    assert {int(size) for size, error in errors.items() if error > FOUND} == where
    assert {int(size) for size, error in errors.items() if error > OUTPUT_FACTOR} == where
    assert sample.values["batch_invariance_error_ratio"] == max(errors.values())


LEAKS: dict[str, Callable[[Rows], Rows]] = {
    "a thousandth of the second row": lambda rows: [
        row + 1e-3 * rows[1].mean() if len(rows) > 1 else row for row in rows
    ],
    "the middle row's own fault": lambda rows: [
        row * (1 + 1e-5 * (i == len(rows) // 2 > 0)) for i, row in enumerate(rows)
    ],
    "the last row's own fault": lambda rows: [
        row * (1 + 1e-5 * (0 < i == len(rows) - 1)) for i, row in enumerate(rows)
    ],
}


@pytest.mark.parametrize("name", LEAKS)
def test_what_is_smaller_than_rounding_is_found_bit_for_bit(name: str) -> None:
    sample = invariance(Spoiled(lambda _, rows: LEAKS[name](rows)), (1, 2, 5, 8))
    assert sample.values["batch_same_shape_differences"] > 0
    assert invariance(ToyTransformer(torch.float32)).values["batch_same_shape_differences"] == 0


def test_a_batch_of_single_passes_is_none() -> None:
    def engine() -> TransformersEngine:
        return TransformersEngine(
            "tiny", make_model("llama"), make_tokenizer(), dtype=torch.float32
        )

    prompt, *neighbours = (seeded_ids(f"t{n}", n, VOCABULARY) for n in (20, 7, 20))
    wide = TransformersEngine(
        "wide", make_model("llama").double(), make_tokenizer(), dtype=torch.float64
    )
    together, single = engine(), engine()
    single.batch_logits = lambda prompts: [single.full_logits(ids) for ids in prompts]  # type: ignore[method-assign]
    shares = [
        measure_batch_invariance(
            each,
            wide.full_logits(prompt),
            each.full_logits(prompt),
            prompt,
            neighbours,
            "p",
            (2, 4),
        ).values["rows_together_share"]
        for each in (together, single)
    ]
    assert shares == [1.0, 0.25]


def test_greedy_tokens_that_a_batch_changes_are_counted() -> None:
    def flipped(prompts: Batch, rows: Rows) -> Rows:
        if len(rows) == 1:
            return rows
        own = rows[0].clone()
        own[[3, 5]] = -own[[3, 5]]
        return [own, *rows[1:]]

    sample = invariance(Spoiled(flipped), (1, 4))
    assert sample.details["mismatches"] == {"1": 0, "4": 2}
    assert sample.values["batch_invariance_mismatches"] == 2


def dtype_error() -> DtypeError:
    oracle = ToyTransformer(torch.float64).full_logits(IDS)
    return dtype_error_of(oracle, ToyTransformer(torch.float32).full_logits(IDS), torch.float32)


@given(st.floats(2.0**-10, 2.0**10))
def test_an_error_is_counted_in_what_two_runs_may_differ_by(shift: float) -> None:
    """Logits that are a constant above and below: their RMS error is that constant, but for
    rounding; the bound on the usual row is the larger."""
    signs = torch.tensor([1.0, -1.0]).repeat(ToyTransformer.vocabulary // 2)
    engine = Spoiled(
        lambda _, rows: [row.double() + shift * signs * (len(rows) > 1) for row in rows]
    )
    sample = invariance(engine, (1, 4))
    ratio = least_factor(torch.full((len(IDS),), shift), dtype_error().usual)
    assert ratio > shift / (2 * dtype_error().worst)
    rounding = ToyTransformer.vocabulary * torch.finfo(torch.float32).eps
    assert sample.details["errors"]["4"] == pytest.approx(ratio, rel=rounding)


@pytest.mark.parametrize(("gap", "illegal"), [(3.0, 0), (5.0, 1)])
def test_two_tokens_may_change_places_where_two_runs_may_both_err(gap: float, illegal: int) -> None:
    """Each run by twice the plain one's largest error, so four times that in all."""
    apart = gap * float(dtype_error().extremes.max())

    def near_tie(_: Batch, rows: Rows) -> Rows:
        own = rows[0].double().clone()
        first, second = own[3].topk(2).indices
        own[3, second] = own[3, first] - (apart if len(rows) == 1 else -apart)
        return [own, *rows[1:]]

    sample = invariance(Spoiled(near_tie), (2,))
    assert sample.values["batch_invariance_mismatches"] == illegal


def test_batches_whose_logits_are_too_many_are_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = ToyTransformer(torch.float32)
    row = max(map(len, NEIGHBOURS)) * torch.float32.itemsize * engine.vocabulary
    monkeypatch.setattr(pairs, "LARGEST_LOGITS", 16 * row)
    sample = invariance(engine)
    assert sample.details["left_out"] == [32, 64, 128]
    assert list(sample.details["errors"]) == ["1", "2", "4", "8", "16"]
    monkeypatch.setattr(pairs, "LARGEST_LOGITS", 1)
    with pytest.raises(InvalidComparisonError, match="smallest batch"):
        invariance(engine)


def test_an_oracle_in_the_engines_own_dtype_is_refused() -> None:
    engine = ToyTransformer(torch.float32)
    logits = engine.full_logits(IDS)
    with pytest.raises(InvalidComparisonError, match=r"set equivalence\.oracle to float64"):
        measure_batch_invariance(engine, logits, logits, IDS, NEIGHBOURS, "p")


@pytest.mark.parametrize(
    ("sizes", "neighbours"), [((), NEIGHBOURS), ((0, 1), NEIGHBOURS), ((2,), [])]
)
def test_no_sizes_and_no_neighbours_are_refused(sizes: tuple[int, ...], neighbours: Batch) -> None:
    engine = ToyTransformer(torch.float32)
    logits = engine.full_logits(IDS)
    with pytest.raises(ValueError, match="one neighbour at least"):
        measure_batch_invariance(engine, logits, logits, IDS, neighbours, "p", sizes)


def test_logits_that_are_no_numbers_are_named() -> None:
    with pytest.raises(NonFiniteLogitsError, match="position 0"):
        invariance(Spoiled(lambda _, rows: [row * math.nan for row in rows]))


# Throughput


class Backend:
    """A batch function that takes ``per_call + per_item·n`` microseconds of virtual time."""

    def __init__(self, per_call: int, per_item: int = 0) -> None:
        self.per_call, self.per_item = per_call, per_item
        self.sizes: list[int] = []

    async def __call__(self, items: list[int]) -> list[int | Exception]:
        self.sizes.append(len(items))
        await asyncio.sleep(self.seconds(len(items)))
        return self.results(items)

    def seconds(self, count: int) -> float:
        return (self.per_call + self.per_item * count) * MICROSECOND

    def results(self, items: list[int]) -> list[int | Exception]:
        return [10 * item for item in items]


def pair(backend: Backend, count: int, policy: BatchPolicy, first: bool = True) -> Sample:
    return measure_batching_pair(
        backend, range(count), policy, first, "pair-0", async_solipsism.EventLoop
    )


@given(
    count=st.integers(1, 60),
    size=st.integers(1, 16),
    wait=st.integers(0, 5000),
    costs=st.tuples(st.integers(1, 2000), st.integers(0, 500)),
    first=st.booleans(),
)
def test_throughput_is_that_of_full_batches_and_the_rest(
    count: int, size: int, wait: int, costs: tuple[int, int], first: bool
) -> None:
    backend = Backend(*costs)
    sample = pair(backend, count, BatchPolicy(size, wait * MICROSECOND), first)
    full, rest = divmod(count, size)
    together = full * backend.seconds(size)
    if rest:
        together = max(together, wait * MICROSECOND) + backend.seconds(rest)
    alone = count * backend.seconds(1)
    # The virtual clock counts whole microseconds, and so do the costs; its floats round.
    assert sample.values == {
        "batching_throughput_ratio": pytest.approx(math.log(alone / together), abs=1e-9)
    }
    batches = [size] * full + [rest] * (rest > 0)
    assert backend.sizes == (batches + [1] * count if first else [1] * count + batches)
    assert sample.weight == count
    assert sample.details["batched_first"] is first
    assert sample.details["mean_batch_size"] == count / len(batches)
    assert sample.details["requests_per_second"] == pytest.approx(count / together)
    assert sample.details["one_by_one_requests_per_second"] == pytest.approx(count / alone)
    assert sample.details["different"] == 0


def test_results_that_batching_changes_are_counted() -> None:
    class Coupled(Backend):
        def results(self, items: list[int]) -> list[int | Exception]:
            return [item + (len(items) > 1 and item % 2) for item in items]

    assert pair(Coupled(10), 12, BatchPolicy(4)).details["different"] == 6


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("side", "sizes"), [("batched", {4}), ("one by one", {1})])
@pytest.mark.parametrize("whole", [True, False])
def test_a_request_that_fails_makes_the_times_incomparable(
    first: bool, side: str, sizes: set[int], whole: bool
) -> None:
    class Failing(Backend):
        def results(self, items: list[int]) -> list[int | Exception]:
            error = RuntimeError("out of memory")
            if len(items) not in sizes:
                return [0] * len(items)
            if whole:
                raise error
            return [*[0] * (len(items) - 1), error]

    with pytest.raises(InvalidComparisonError, match=f"failed {side}: .*out of memory"):
        pair(Failing(10), 8, BatchPolicy(4), first)


def test_errors_of_the_engine_keep_their_type() -> None:
    class Broken(Backend):
        def results(self, items: list[int]) -> list[int | Exception]:
            raise NonFiniteLogitsError("NaN")

    with pytest.raises(NonFiniteLogitsError):
        pair(Broken(10), 8, BatchPolicy(4))


def test_requests_that_take_no_time_are_refused() -> None:
    with pytest.raises(InvalidComparisonError, match="for the clock to tell"):
        pair(Backend(0), 8, BatchPolicy(4))
    with pytest.raises(ValueError, match="no requests"):
        pair(Backend(1), 0, BatchPolicy(4))


def test_an_engine_generates_in_batches_what_it_generates_alone() -> None:
    """On real time, whose length says nothing here."""
    engine = TransformersEngine("tiny", make_model("llama"), make_tokenizer(), dtype=torch.float32)
    requests = [(seeded_ids(f"g{n}", 3 + n, VOCABULARY), 2 + n % 3) for n in range(10)]
    sample = measure_batching_pair(generating(engine), requests, BatchPolicy(4), False, "pair-0")
    assert sample.details["different"] == 0
    assert sample.details["mean_batch_size"] == 10 / 3
    assert math.isfinite(sample.values["batching_throughput_ratio"])


# The window

COSTS = st.builds(CostModel, st.floats(1e-4, 0.1), st.floats(0, 0.01), st.floats(0, 0.001))


@given(COSTS, st.integers(2, 9), st.floats(0, 1), st.integers(1, 40))
def test_where_requests_are_rare_each_waits_the_whole_window(
    cost: CostModel, size: int, wait: float, count: int
) -> None:
    gap = wait + 2 * cost.batch([TraceRequest(0.0)])
    requests = [TraceRequest(number * gap) for number in range(count)]
    sample = measure_window(requests, cost, BatchPolicy(size, wait), "rare")
    # Sums of some hundred seconds at most.
    rounding = 2**-52 * (requests[-1].arrival + gap) * 4
    assert sample.values == {"window_latency_seconds": pytest.approx(wait, abs=rounding)}
    assert sample.details["mean"] == pytest.approx(wait, abs=rounding)
    assert sample.details["mean_batch_size"] == 1


@given(COSTS, st.integers(1, 9), st.floats(0, 1), st.integers(1, 5))
def test_full_batches_wait_for_nothing(
    cost: CostModel, size: int, wait: float, batches: int
) -> None:
    requests = [TraceRequest(0.0)] * (size * batches)
    sample = measure_window(requests, cost, BatchPolicy(size, wait), "burst")
    assert sample.values == {"window_latency_seconds": 0.0}
    assert sample.details["largest"] == 0


@given(COSTS, st.lists(st.floats(0, 5), min_size=1, max_size=30), st.integers(1, 5))
def test_no_window_adds_nothing(cost: CostModel, arrivals: list[float], size: int) -> None:
    requests = [TraceRequest(arrival) for arrival in arrivals]
    sample = measure_window(requests, cost, BatchPolicy(size, 0.0), "eager")
    assert sample.values == {"window_latency_seconds": 0.0}


def test_under_load_a_window_may_shorten_latencies() -> None:
    """Two that come almost together share a batch, for which the first waits a little."""
    requests = [TraceRequest(0.0), TraceRequest(0.1)]
    sample = measure_window(requests, CostModel(1.0), BatchPolicy(2, 0.5), "pair")
    # With the window both end at 1.1; without, the first ends at 1 and the second at 2.
    assert sample.details["largest"] == pytest.approx(0.1)
    assert sample.details["mean"] == pytest.approx((0.1 - 0.9) / 2)
    assert sample.values["window_latency_seconds"] == pytest.approx(0.1 - 0.01 * 1.0)
