"""Traces and cost models: distributions and the fit against scipy's."""

import math
import statistics

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.batching import (
    CostModel,
    MeasuredStep,
    TraceRequest,
    bursts,
    lognormal,
    poisson,
    trace,
)

seconds = st.floats(1e-6, 10, allow_subnormal=False)
measured = st.lists(
    st.builds(
        MeasuredStep, seconds, st.integers(1, 64), st.integers(1, 4096), st.integers(0, 10**6)
    ),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("seed", range(3))
def test_gaps_of_poisson_arrivals_are_exponential_and_depend_on_the_seed_alone(seed):
    arrivals = poisson(rate=4, count=2000, seed=seed)
    assert arrivals == sorted(arrivals)
    gaps = np.diff([0.0, *arrivals])
    assert scipy.stats.kstest(gaps, "expon", args=(0, 1 / 4)).pvalue > 0.01
    assert arrivals == poisson(rate=4, count=2000, seed=seed)
    assert arrivals != poisson(rate=4, count=2000, seed=seed + 1)


@pytest.mark.parametrize("seed", range(3))
def test_lengths_are_lognormal_between_one_and_the_longest(seed):
    lengths = lognormal(1000, 0.5, 2000, seed)
    logarithms = np.log(lengths)
    assert scipy.stats.kstest(logarithms, "norm", args=(math.log(1000), 0.5)).pvalue > 0.01
    cut = lognormal(4, 2, 500, seed, longest=20)
    assert (min(cut), max(cut)) == (1, 20)
    assert statistics.median(lognormal(64, 0, 9, seed)) == 64


def test_bursts_come_together():
    assert bursts(3, 0.5, 8) == [0, 0, 0, 0.5, 0.5, 0.5, 1, 1]


def test_a_trace_is_in_the_order_of_arrival():
    assert trace([3, 1, 2], [30, 10, 20], 5) == [
        TraceRequest(1, 10, 5),
        TraceRequest(2, 20, 5),
        TraceRequest(3, 30, 5),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trace([1, 2], [1]), "1 prompt_tokens for 2 arrivals"),
        (lambda: trace([1], 1, 0), "output_tokens is 0"),
        (lambda: trace([-1]), "arrival is -1"),
        (lambda: trace([math.nan]), "arrival is nan"),
        (lambda: poisson(0, 1, 0), "rate is 0"),
        (lambda: bursts(0, 1, 1), "bursts of 0"),
        (lambda: lognormal(0.5, 1, 1, 0), "lengths around 0.5"),
        (lambda: CostModel(-1), "per_step is -1"),
        (lambda: CostModel(1, per_token=math.nan), "per_token is nan"),
        (lambda: CostModel(0), "all coefficients are 0"),
        (lambda: CostModel.fit([]), "one measured step"),
        (lambda: CostModel.fit([MeasuredStep(0, 1, 1)]), "more than 0 seconds"),
    ],
)
def test_what_is_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def scaled_design(steps):
    """The relative least-squares problem, with columns of norm 1."""
    design = np.array([step.terms for step in steps]) / [[step.seconds] for step in steps]
    norms = np.linalg.norm(design, axis=0)
    return design / np.where(norms > 0, norms, 1)


coefficient = st.integers(0, 1000)


@given(
    st.tuples(st.integers(1, 1000), coefficient, coefficient, coefficient),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=8),
)
def test_a_batch_costs_as_much_as_its_steps(coefficients, lengths):
    model = CostModel(*coefficients)
    requests = [TraceRequest(0, prompt, output) for prompt, output in lengths]
    size, prompt = len(lengths), max(prompt for prompt, _ in lengths)
    total = model.step(size, size * prompt, size * prompt)
    for generated in range(1, max(output for _, output in lengths)):
        total += model.step(size, size, size * (prompt + generated))
    assert model.batch(requests) == total


@given(st.tuples(seconds, seconds, seconds, seconds))
def test_a_fit_finds_the_model_that_made_the_measurements(coefficients):
    model = CostModel(*coefficients)
    shapes = [(1, 1, 1), (8, 8, 40), (1, 64, 64), (4, 100, 900), (32, 32, 32_000), (2, 2, 7)]
    steps = [MeasuredStep(model.step(*shape), *shape) for shape in shapes]
    fitted = CostModel.fit(steps)
    # A coefficient of the size of its own rounding error may come out negative, and is left out.
    design = scaled_design(steps)
    rounding = np.finfo(np.float64).eps * np.linalg.cond(design) * design.size
    assert np.abs(fitted.relative_errors(steps)).max() <= rounding


@given(measured)
def test_no_model_without_negative_coefficients_fits_better(steps):
    fitted = CostModel.fit(steps)
    residual = math.sqrt(np.sum(fitted.relative_errors(steps) ** 2))
    _, least = scipy.optimize.nnls(scaled_design(steps), np.ones(len(steps)))
    # Both look at sums of squares, in which a rounding error is eps, and its root in the norm.
    assert residual <= least + math.sqrt(np.finfo(np.float64).eps * len(steps))


@given(st.lists(st.tuples(seconds, st.integers(1, 64)), min_size=1, max_size=20))
def test_of_terms_that_are_always_equal_one_gets_all(timings):
    fitted = CostModel.fit([MeasuredStep(seconds, size, size, size) for seconds, size in timings])
    shares = [fitted.per_sequence, fitted.per_token, fitted.per_context]
    assert sum(share > 0 for share in shares) <= 1


def test_a_fit_of_decoding_steps_is_the_line_through_them():
    steps = [MeasuredStep(0.1 + 0.01 * size, size, size) for size in (1, 2, 4, 8)]
    fitted = CostModel.fit(steps)
    assert fitted.per_step == pytest.approx(0.1)
    assert sorted([fitted.per_sequence, fitted.per_token]) == [0, pytest.approx(0.01)]
    assert fitted.per_context == 0
