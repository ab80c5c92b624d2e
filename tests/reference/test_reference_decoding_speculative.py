"""Speculative decoding emits what plain decoding emits, and counts what it did."""

import itertools
import math

import pytest
import torch
from decoding_models import STATES, VOCABULARY, function, scorer, states, table
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.decoding import (
    Drafts,
    FinishReason,
    LogitsPipeline,
    ModelDrafter,
    PromptLookupDrafter,
    SpeculativeDecoder,
    SpeculativeStatistics,
    StoppingRules,
    generate,
    verify,
)
from infopt_reference.decoding.verification import Uniforms

EPS = torch.finfo(torch.float64).eps


def decoder(target, draft, lookahead, pipeline, stopping):
    drafter = (
        draft if not isinstance(draft, torch.Tensor) else ModelDrafter(scorer(draft), VOCABULARY)
    )
    return SpeculativeDecoder(scorer(target), drafter, lookahead, pipeline, stopping)


def distribution(*shape, seed, zeros=0.0):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(*shape, generator=generator, dtype=torch.float64)
    weights = weights * (torch.rand(*shape, generator=generator) >= zeros)
    weights[..., 0] += 0.01
    return weights / weights.sum(-1, keepdim=True)


def emitted_first(p, token, q, accept, last):
    """The first token that each row emits, one row for each number ``last``."""
    n = len(last)
    drafts = Drafts([[token]] * n, None if q is None else q.expand(n, 1, -1))
    uniforms = Uniforms(torch.zeros(n, 1), torch.full((n, 1), accept, dtype=torch.float64), last)
    return [row[0] for row in verify(drafts, p.expand(n, 2, -1), uniforms)]


@given(st.integers(0, 1000), st.sampled_from([0.0, 0.4]), st.booleans())
@settings(max_examples=30)
def test_the_rule_emits_the_target_exactly(seed, zeros, chosen):
    """The chance of each first token, summed over an even grid of the numbers: no luck in it."""
    p = distribution(1, 2, 5, seed=seed, zeros=zeros)
    q = distribution(1, 1, 5, seed=seed + 1, zeros=zeros)
    steps = 2000
    grid = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    emitted = torch.zeros(5, dtype=torch.float64)
    for token in q[0, 0].nonzero()[:, 0].tolist():
        drawn_from = None if chosen else q
        bound = float((p[0, 0, token] / (1.0 if chosen else q[0, 0, token])).clamp(max=1))
        if bound > 0:
            (first,) = {*emitted_first(p, token, drawn_from, bound / 2, grid)}
            assert first == token
            emitted[token] += bound * q[0, 0, token]
        if bound < 1:
            found = torch.tensor(emitted_first(p, token, drawn_from, (1 + bound) / 2, grid))
            share = torch.bincount(found, minlength=5) / steps
            emitted += (1 - bound) * q[0, 0, token] * share
    assert (emitted - p[0, 0]).abs().max() <= 1 / steps + 8 * EPS


@pytest.mark.parametrize("lookahead", [0, 1, 2, 5])
@pytest.mark.parametrize("draft", ["same", "other", "always wrong", "lookup"])
def test_greedy_is_plain_greedy(draft, lookahead):
    target = table(1)
    drafts = {
        "same": target,
        "other": table(2),
        "always wrong": -target,
        "lookup": PromptLookupDrafter(),
    }
    pipeline, stopping = LogitsPipeline(0.0), StoppingRules(23)
    prompts = [[1], [2, 3, 4], [5, 5]]
    rows = decoder(target, drafts[draft], lookahead, pipeline, stopping).decode(prompts, [0, 1, 2])
    for prompt, row in zip(prompts, rows, strict=True):
        expected, reason = generate(scorer(target), prompt, pipeline, stopping)
        assert ([*row.token_ids], row.finish_reason) == (expected, reason)
        counted = row.statistics
        assert counted.emitted == 23
        assert 0 <= counted.emitted - counted.target_passes - counted.accepted + 1 <= 1
        if draft == "same":
            assert counted.target_passes == math.ceil(23 / (lookahead + 1))
        if draft == "always wrong":
            assert counted.accepted == 0


def joint(target, pipeline, prompt, length):
    """The distribution of the first tokens, from the definition."""
    chances = {}
    for tokens in itertools.product(range(VOCABULARY), repeat=length):
        row = [*prompt, *tokens]
        rows = [row[: len(prompt) + i] for i in range(length)]
        each = pipeline(function(target)(row)[len(prompt) - 1 : -1], rows, [len(prompt)] * length)
        chances[tokens] = math.prod(float(p[t]) for p, t in zip(each, tokens, strict=True))
    return chances


PIPELINES = {
    "plain": LogitsPipeline(),
    "top-k, cold": LogitsPipeline(0.6, top_k=3),
    "top-p": LogitsPipeline(top_p=0.7),
    "penalties": LogitsPipeline(
        repetition_penalty=1.6, presence_penalty=1.0, frequency_penalty=1.5
    ),
}


@pytest.mark.parametrize("draft", [1, 2, "reversed", "reduced"])
@pytest.mark.parametrize("name", PIPELINES)
def test_sampled_tokens_are_distributed_as_the_targets(name, draft):
    """A chi-square over all pairs of tokens, far out in its tail."""
    target, pipeline, count = table(1), PIPELINES[name], 2500
    if draft == "reduced":
        kept = torch.tensor([6, 1, 3, 0])
        drafter = ModelDrafter(scorer(table(2)[:, :4]), VOCABULARY, kept)
    else:
        drafter = -target if draft == "reversed" else table(draft)  # table(1): the target
    rows = decoder(target, drafter, 2, pipeline, StoppingRules(2)).decode(
        [[4, 1]] * count, range(count)
    )
    found = [row.token_ids for row in rows]
    expected = joint(target, pipeline, [4, 1], 2)
    assert sum(expected.values()) == pytest.approx(1)
    assert all(expected[tokens] > 0 for tokens in found)
    cells = {tokens: p * count for tokens, p in expected.items() if p * count >= 5}
    rare = count - sum(cells.values())
    statistic = sum((found.count(tokens) - n) ** 2 / n for tokens, n in cells.items())
    if rare >= 5:
        statistic += (sum(tokens not in cells for tokens in found) - rare) ** 2 / rare
    freedom = len(cells) - 1 + (rare >= 5)
    assert statistic <= freedom + 6 * math.sqrt(2 * max(freedom, 1)) + 12


def test_rows_depend_on_their_seeds_alone():
    target, draft = table(1), table(2)
    made = decoder(target, draft, 3, LogitsPipeline(), StoppingRules(12, stop_token_ids=(5,)))
    prompts = [[1], [2, 3], [4, 4, 4], [7]]
    together = made.decode(prompts, [10, 11, 12, 13])
    assert len({row.token_ids for row in together}) > 1
    for index, prompt in enumerate(prompts):
        assert made.decode([prompt], [10 + index]) == [together[index]]
    assert made.decode(prompts[::-1], [13, 12, 11, 10]) == together[::-1]


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("lookahead", [1, 3, 8])
def test_nothing_follows_a_stop_inside_a_draft(place, lookahead):
    target, pipeline = table(1), LogitsPipeline(0.0)
    plain, _ = generate(scorer(target), [1], pipeline, StoppingRules(20))
    stopping = StoppingRules(20, stop_sequences=[plain[place : place + 2]])
    expected, reason = generate(scorer(target), [1], pipeline, stopping)
    (row,) = decoder(target, target, lookahead, pipeline, stopping).decode([[1]], [0])
    assert ([*row.token_ids], row.finish_reason) == (expected, reason)
    assert reason is FinishReason.STOP
    assert row.statistics.accepted <= row.statistics.emitted <= len(expected)


def test_a_lookahead_may_change_from_pass_to_pass():
    target, pipeline, stopping = table(1), LogitsPipeline(0.0), StoppingRules(12)
    made = decoder(target, target, lambda step: (3, 0, 3)[step % 3], pipeline, stopping)
    (row,) = made.decode([[1]], [0])
    assert [*row.token_ids] == generate(scorer(target), [1], pipeline, stopping)[0]
    assert row.statistics == SpeculativeStatistics(4, 8, 8, 12)  # 4, 1, 4 and 3


def test_a_prompt_lookup_copies_the_latest_continuation():
    lookup = PromptLookupDrafter(longest=2)

    def found(row, length):
        return lookup.draft(
            [row], [len(row)], [length], torch.zeros(1, 9), LogitsPipeline()
        ).tokens[0]

    assert found([1, 2, 9, 1, 2, 8, 1, 2], 3) == [8, 1, 2]
    assert found([1, 2, 9, 7, 2], 2) == [9, 7]  # the last two are new, the last one is not
    assert found([1, 2, 3], 4) == []
    assert found([5], 4) == []


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="give vocabulary"):
        ModelDrafter(scorer(table(1, vocabulary=5)), VOCABULARY)
    with pytest.raises(ValueError, match="longest is 0"):
        PromptLookupDrafter(0)
    with pytest.raises(ValueError, match="lookahead is -1"):
        decoder(table(1), table(2), -1, LogitsPipeline(), StoppingRules(1))
    made = decoder(table(1), table(2), 1, LogitsPipeline(), StoppingRules(1))
    with pytest.raises(ValueError, match="prompt is empty"):
        made.decode([[1], []], [0, 1])
    with pytest.raises(ValueError, match="prompt is empty"):
        generate(scorer(table(1)), [], LogitsPipeline(), StoppingRules(1))
    assert states([1]).max() < STATES
