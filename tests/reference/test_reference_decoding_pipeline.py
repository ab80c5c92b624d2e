"""The logits pipeline against transformers' processors, and the rules of stopping."""

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.decoding import FinishReason, LogitsPipeline, StoppingRules
from infopt_reference.decoding.pipeline import drawn
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

EPS = torch.finfo(torch.float64).eps
ROWS = [[3, 5, 5, 7, 1], [2, 2, 9, 0, 4]]


def logits(columns=60):
    generator = torch.Generator().manual_seed(11)
    return 3 * torch.randn(len(ROWS), columns, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("top_p", [0.3, 0.95, 1.0])
@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("penalty", [1.0, 1.7, 0.4])
def test_the_pipeline_is_transformers_processors_in_their_order(penalty, top_k, top_p, min_p):
    scores = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(ROWS), logits())
    scores = TemperatureLogitsWarper(0.7)(None, scores)
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    if min_p:
        scores = MinPLogitsWarper(min_p)(None, scores)
    pipeline = LogitsPipeline(0.7, top_k, top_p, min_p, repetition_penalty=penalty)
    found, expected = pipeline(logits(), ROWS, [2, 2]), scores.softmax(-1)
    assert torch.equal(found > 0, expected > 0)
    assert (found - expected).abs().max() <= 60 * EPS


def test_presence_and_frequency_count_the_output_alone():
    pipeline = LogitsPipeline(presence_penalty=0.5, frequency_penalty=0.25)
    scores = logits()
    for row, (tokens, start) in enumerate(zip(ROWS, (1, 3), strict=True)):
        for token in {*tokens[start:]}:
            scores[row, token] -= 0.5 + 0.25 * tokens[start:].count(token)
    found = pipeline(logits(), ROWS, [1, 3])
    assert (found - scores.softmax(-1)).abs().max() <= 60 * EPS


def test_a_row_knows_nothing_of_other_rows():
    pipeline = LogitsPipeline(0.8, 7, 0.9, 0.02, 1.3, 0.2, 0.1)
    both = pipeline(logits(), ROWS, [2, 4])
    for row in range(2):
        alone = pipeline(logits()[row : row + 1], ROWS[row : row + 1], [2, 4][row : row + 1])
        assert torch.equal(both[row], alone[0])


@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1.0)), min_size=1, max_size=9).filter(any),
    st.one_of(st.floats(0, 1, exclude_max=True), st.just(math.nextafter(1, 0))),
)
def test_a_token_is_drawn_where_the_sum_passes_the_number(weights, uniform):
    token = int(drawn(torch.tensor([weights]).double(), torch.tensor([uniform]).double()))
    assert weights[token] > 0
    before, total = math.fsum(weights[:token]), math.fsum(weights)
    slack = 4 * len(weights) * EPS * total
    assert before - slack <= uniform * total <= before + weights[token] + slack


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(name, value):
    assert name in {field.name for field in fields(LogitsPipeline)}
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        LogitsPipeline(**{name: value})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_say_nothing_are_refused(bad):
    row = torch.tensor([[0.0, bad, 1.0]])
    with pytest.raises(ValueError, match="the largest logit is"):
        LogitsPipeline()(row)
    with pytest.raises(ValueError, match="the largest logit is -inf"):
        LogitsPipeline(0.0)(torch.full((1, 3), -math.inf))


def text_of(tokens):
    return "".join("abcdefgh"[token] for token in tokens)


RULES = {
    "stop token": {"stop_token_ids": (4,)},
    "stop sequence": {"stop_sequences": ((3, 4), (7, 7))},
    "stop string": {"stop_strings": ("de",), "decode": text_of},
}


@pytest.mark.parametrize("rule", RULES)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=30), st.integers(1, 6), st.integers(1, 20))
def test_an_output_ends_at_the_same_token_however_its_tokens_come(rule, tokens, burst, most):
    rules = StoppingRules(most, **RULES[rule])
    output, reason = [], None
    for start in range(0, len(tokens), burst):
        output, reason = rules.extended(output, tokens[start : start + burst])
        if reason is not None:
            break
    text = text_of(tokens[:most])
    found = [
        text.find(stop) + len(stop)
        for stop in {"stop token": ("e",), "stop sequence": ("de", "hh"), "stop string": ("de",)}[
            rule
        ]
        if stop in text
    ]
    if found:
        assert (output, reason) == (tokens[: min(found)], FinishReason.STOP)
    elif len(tokens) >= most:
        assert (output, reason) == (tokens[:most], FinishReason.LENGTH)
    else:
        assert (output, reason) == (tokens, None)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"stop_sequences": [[]]}, "stop sequence is empty"),
        ({"stop_strings": [""]}, "stop string is empty"),
        ({"stop_strings": ["a"]}, "give decode"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        StoppingRules(**{"max_new_tokens": 1, **options})
