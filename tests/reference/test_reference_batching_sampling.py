"""Which tokens may be drawn and how often: against transformers, plain lists and counted draws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.batching.sampling import (
    Sampler,
    SamplingParameters,
    probabilities,
    sample_rows,
)
from scipy.stats import chisquare
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

EPS = torch.finfo(torch.float64).eps
# Halves: exact in every dtype, and often equal to each other.
LOGITS = st.lists(
    st.one_of(st.integers(-12, 12).map(lambda n: n / 2), st.just(-math.inf)),
    min_size=1,
    max_size=12,
).filter(lambda row: max(row) > -math.inf)
PARAMETERS = st.builds(
    SamplingParameters,
    temperature=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    top_k=st.one_of(st.none(), st.integers(1, 14)),
    # Not what equal chances add up to: there, rounding alone decides.
    top_p=st.sampled_from([0.0103, 0.2957, 0.5179, 0.9041, 0.9993, 1.0]),
)


def by_hand(row, parameters):
    """The definition on a plain list."""
    chances = [math.exp((x - max(row)) / parameters.temperature) for x in row]
    if parameters.top_k is not None:
        least = sorted(chances, reverse=True)[: parameters.top_k][-1]
        chances = [p if p >= least else 0 for p in chances]
    total = math.fsum(chances)
    chances = [p / total for p in chances]
    if parameters.top_p < 1:
        kept, reached = set(), 0.0
        for token in sorted(range(len(row)), key=lambda i: (-chances[i], i)):
            if reached >= parameters.top_p:
                break
            kept.add(token)
            reached += chances[token]
        chances = [p if i in kept else 0 for i, p in enumerate(chances)]
    total = math.fsum(chances)
    return [p / total for p in chances]


@given(LOGITS, PARAMETERS, st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_probabilities_are_those_of_the_definition(row, parameters, dtype):
    actual = probabilities(torch.tensor(row, dtype=dtype), parameters)
    expected = torch.tensor(by_hand(row, parameters), dtype=torch.float64)
    assert torch.equal(actual > 0, expected > 0)
    # exp and the sums of both sides round once for each token, relative to terms of at most 1.
    assert (actual - expected).abs().max() <= 4 * len(row) * EPS


@pytest.mark.parametrize("top_k", [None, 1, 5, 50, 1000])
@pytest.mark.parametrize("top_p", [1e-9, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_probabilities_are_those_of_transformers(temperature, top_k, top_p):
    logits = torch.randn(1, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    actual = probabilities(logits[0], SamplingParameters(temperature, top_k, top_p))
    expected = scores.softmax(-1)[0]
    assert torch.equal(actual > 0, expected > 0)
    assert (actual - expected).abs().max() <= 300 * EPS


@given(LOGITS)
def test_greedy_is_the_most_likely_token_and_the_first_of_equals(row):
    parameters = SamplingParameters()
    expected = row.index(max(row))
    assert Sampler(parameters)(torch.tensor(row)) == expected
    assert sample_rows(torch.tensor([row]), [Sampler(parameters)]) == [expected]
    assert probabilities(torch.tensor(row), parameters).tolist() == [
        float(i == expected) for i in range(len(row))
    ]


@given(LOGITS)
def test_a_temperature_near_zero_shares_among_the_most_likely(row):
    smallest = math.ulp(0.0)  # half a unit of logit divided by it is infinite
    chances = probabilities(torch.tensor(row), SamplingParameters(temperature=smallest))
    best = [x == max(row) for x in row]
    assert chances.tolist() == [hit / sum(best) for hit in best]


def test_tokens_are_drawn_as_often_as_they_are_likely():
    parameters = SamplingParameters(temperature=0.8, top_k=6, top_p=0.95, seed=11)
    logits = torch.tensor([2.0, -1.0, 1.5, 0.0, 1.0, -3.0, 0.5, -0.5, 1.9, -math.inf])
    sampler, draws = Sampler(parameters), 20_000
    counts = torch.bincount(
        torch.tensor([sampler(logits) for _ in range(draws)]), minlength=len(logits)
    )
    chances = probabilities(logits, parameters)
    assert counts[chances == 0].sum() == 0
    kept = chances > 0
    # A sound sampler falls below 1e-6 with one seed in a million; this seed is fixed.
    assert chisquare(counts[kept], draws * chances[kept] / chances.sum()).pvalue > 1e-6
    # And the test sees the difference that a temperature of 0.9 makes.
    other = probabilities(logits, SamplingParameters(temperature=0.9, top_k=6, top_p=0.95))
    assert chisquare(counts[kept], draws * other[kept] / other[kept].sum()).pvalue < 1e-6


@given(st.lists(st.tuples(LOGITS, PARAMETERS), min_size=1, max_size=4), st.integers(0, 2**40))
def test_a_row_draws_the_same_beside_any_others(rows, seed):
    width = max(len(row) for row, _ in rows)
    logits = torch.tensor([row + [-math.inf] * (width - len(row)) for row, _ in rows])
    seeded = [
        SamplingParameters(p.temperature, p.top_k, p.top_p, seed=seed + i)
        for i, (_, p) in enumerate(rows)
    ]
    together, alone = ([Sampler(p) for p in seeded] for _ in range(2))
    for _ in range(5):
        expected = [sampler(row) for sampler, row in zip(alone, logits, strict=True)]
        assert sample_rows(logits, together) == expected


def test_without_a_seed_no_two_requests_draw_the_same():
    logits = torch.zeros(1000)
    parameters = SamplingParameters(temperature=1.0)
    drawn = {tuple(sampler(logits) for _ in range(8)) for sampler in (Sampler(parameters),) * 2}
    drawn |= {tuple(Sampler(parameters)(logits) for _ in range(8)) for _ in range(2)}
    assert len(drawn) == 4  # a collision of two has a chance of 1000^-8


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_the_row_whose_logits_are_no_numbers_fails(wrong, temperature):
    logits = torch.tensor([[0.0, 5.0, 1.0], [wrong, wrong, wrong], [9.0, 0.0, 1.0]])
    if wrong != -math.inf:
        logits[1, 1:] = 0.0
    parameters = SamplingParameters(temperature, top_k=1)
    first, second, third = sample_rows(logits, [Sampler(parameters) for _ in range(3)])
    assert (first, third) == (1, 0)
    assert isinstance(second, ValueError)
    assert "largest logit is" in str(second)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"max_new_tokens": 0},
        {"stop_sequences": ((),)},
    ],
)
def test_parameters_out_of_their_range_are_refused(change):
    with pytest.raises(ValueError, match=r"give|leave it out"):
        SamplingParameters(**change)
