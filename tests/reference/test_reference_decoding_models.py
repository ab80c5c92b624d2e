"""Two real transformers models decode speculatively: caches rolled back, rows ragged, trees."""

import math
from contextlib import nullcontext

import pytest
import torch
from decoding_models import tiny_llama, tiny_windows
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from infopt_reference.decoding import (
    DraftTree,
    FunctionScorer,
    LogitsPipeline,
    ModelDrafter,
    PromptLookupDrafter,
    SpeculativeDecoder,
    SpeculativeStatistics,
    StoppingRules,
    generate,
    walk,
)
from infopt_reference.decoding.heads import DraftHeads, fit_heads
from infopt_reference.decoding.transformers_scorer import TransformersScorer
from infopt_reference.decoding.tree_decoder import TreeDecoder, TreeScorer

VOCABULARY = 64
PROMPTS = [[3, 4, 5, 6, 7, 8], [9, 1], [60, 2, 2, 30]]
EPS = torch.finfo(torch.float64).eps


@pytest.fixture(scope="module")
def target():
    return tiny_llama(1)


def without_a_cache(model):
    """The same model, each row computed by itself and without a cache."""

    @torch.no_grad()
    def function(row):
        return model(input_ids=torch.tensor([row]), use_cache=False).logits[0]

    return FunctionScorer(function, VOCABULARY)


@pytest.fixture(scope="module")
def uncached(target):
    return without_a_cache(target)


@pytest.fixture(scope="module")
def windows():
    return tiny_windows(5)


def drafter(target, name):
    if name == "lookup":
        return PromptLookupDrafter()
    if name == "reduced":
        draft = tiny_llama(1)
        kept = torch.arange(0, VOCABULARY, 2)

        class Half(TransformersScorer):
            def score(self, rows, counts):
                return super().score(rows, counts)[:, kept]

        return ModelDrafter(Half(draft), VOCABULARY, kept)
    draft = target if name == "same" else tiny_llama(2, layers=1)
    return ModelDrafter(TransformersScorer(draft), VOCABULARY)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_scores_never_depend_on_what_was_asked_before(target, uncached, data):
    """Rows that grow, lose tokens, change, and leave: as if each were the first."""
    check_scores(target, uncached, data)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_windows_see_the_same_tokens_whatever_was_rolled_back(windows, data):
    """Rows longer and shorter than a window, whose tokens come back into it."""
    check_scores(windows, without_a_cache(windows), data)


class Unaligned(TransformersScorer):
    """Padding comes between a row's tokens where another row has more new ones: a fault that full
    attention does not see, and a window, which counts slots, does."""

    def aligned(self, rows, kept):
        return kept


@pytest.mark.parametrize("kind", ["full", "windows"])
def test_scores_tell_rows_that_are_not_aligned(target, windows, kind):
    @settings(
        max_examples=25, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
    )
    @given(data=st.data())
    def check(data):
        model = {"full": target, "windows": windows}[kind]
        check_scores(model, without_a_cache(model), data, Unaligned)

    with pytest.raises(AssertionError) if kind == "windows" else nullcontext():
        check()


def check_scores(model, uncached, data, kind=TransformersScorer):
    scorer = kind(model)
    token = st.integers(0, VOCABULARY - 1)
    rows = data.draw(st.lists(st.lists(token, min_size=1, max_size=6), min_size=1, max_size=3))
    for _ in range(4):
        counts = [data.draw(st.integers(0, len(row))) for row in rows]
        counts[0] = max(counts[0], 1)
        found, expected = scorer.score(rows, counts), uncached.score(rows, counts)
        scale = expected.abs().max()
        assert (found - expected).abs().max() <= 1e4 * EPS * scale
        going = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, max_size=3))
        scorer.select(going)
        rows = [rows[i] for i in going]
        rows = [
            row[: data.draw(st.integers(1, len(row)))] + data.draw(st.lists(token, max_size=4))
            for row in rows
        ]


@pytest.mark.parametrize("lookahead", [1, 4])
@pytest.mark.parametrize("name", ["same", "other", "lookup", "reduced"])
def test_ragged_rows_decode_greedily_as_each_alone(target, uncached, name, lookahead):
    pipeline, stopping = LogitsPipeline(0.0), StoppingRules(14, stop_token_ids=(11,))
    scorer = TransformersScorer(target)
    made = SpeculativeDecoder(scorer, drafter(target, name), lookahead, pipeline, stopping)
    for prompts in (PROMPTS, PROMPTS[:1], PROMPTS[::-1]):
        rows = made.decode(prompts, range(len(prompts)))
        for prompt, row in zip(prompts, rows, strict=True):
            expected, reason = generate(uncached, prompt, pipeline, stopping)
            assert ([*row.token_ids], row.finish_reason) == (expected, reason)
            passes = row.statistics.target_passes
            if name == "same":
                assert passes == math.ceil(len(expected) / (lookahead + 1))


def test_a_model_that_drafts_for_itself_is_always_right(target):
    """Sampled, in batches: a draft's cache that lost or kept a token would draft wrongly."""
    pipeline = LogitsPipeline(0.9, top_k=20, repetition_penalty=1.2)
    made = SpeculativeDecoder(
        TransformersScorer(target),
        drafter(target, "same"),
        lambda step: (3, 0, 2)[step % 3],
        pipeline,
        StoppingRules(16),
    )
    for row in made.decode(PROMPTS, [1, 2, 3]):
        counted = row.statistics
        assert counted.accepted == counted.drafted
        assert counted == SpeculativeStatistics(6, counted.drafted, counted.drafted, 16)
        assert counted.acceptance_rate == 1
        assert counted.tokens_per_pass == 16 / 6


def test_the_cache_holds_what_it_would_if_drafts_never_were(target):
    scorer, fresh = TransformersScorer(target), TransformersScorer(target)
    scorer.score([[1, 2, 3, 50, 51]], [3])
    scorer.score([[1, 2, 3, 4]], [1])
    fresh.score([[1, 2, 3, 4]], [1])
    for one, other in zip(scorer.cache.layers, fresh.cache.layers, strict=True):
        assert one.keys.shape == other.keys.shape
        assert (one.keys - other.keys).abs().max() <= 100 * EPS * other.keys.abs().max()
        assert (one.values - other.values).abs().max() <= 100 * EPS * other.values.abs().max()


def test_a_model_with_windows_decodes_ragged_rows_as_each_alone(windows):
    decode_beside_windows(windows, TransformersScorer)


def test_decoded_rows_tell_that_they_were_not_aligned(windows):
    with pytest.raises(AssertionError):
        decode_beside_windows(windows, Unaligned)


def decode_beside_windows(windows, kind):
    """Each row as it is decoded alone and without a cache; the scorer of the target is a `kind`."""
    pipeline, stopping = LogitsPipeline(0.0), StoppingRules(14, stop_token_ids=(11,))
    draft = ModelDrafter(TransformersScorer(tiny_windows(6, window=2)), VOCABULARY)
    made = SpeculativeDecoder(kind(windows), draft, 3, pipeline, stopping)
    for prompt, row in zip(PROMPTS, made.decode(PROMPTS, range(3)), strict=True):
        expected = generate(without_a_cache(windows), prompt, pipeline, stopping)
        assert ([*row.token_ids], row.finish_reason) == expected


def test_layers_that_cannot_be_rolled_back_are_refused(windows):
    model = tiny_llama(1)
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="layers of linear_attention cannot be rolled back"):
        TransformersScorer(model)
    with pytest.raises(ValueError, match="layers of sliding_attention cannot be rolled back"):
        TreeScorer(windows)


# Trees


def test_a_node_sees_its_own_way_alone():
    tree = DraftTree.of_levels([[5, 6], [7, 8]])
    assert tree.tokens == (5, 6, 7, 8, 7, 8)
    assert tree.parents == (-1, -1, 0, 0, 1, 1)
    assert tree.depths() == [0, 0, 1, 1, 1, 1]
    assert tree.sees().long().tolist()[4] == [0, 1, 0, 0, 1, 0]
    assert DraftTree.of_paths([[5, 7], [5, 8], [6, 7], [6, 8], [5]]) == DraftTree(
        (5, 7, 8, 6, 7, 8), (-1, 0, 0, -1, 3, 3)
    )
    with pytest.raises(ValueError, match="parents come first"):
        DraftTree((1, 2), (1, -1))
    with pytest.raises(ValueError, match="same token"):
        DraftTree((1, 1), (-1, -1))


def test_a_walk_ends_where_no_child_was_drawn():
    tree, chances = DraftTree.of_levels([[1, 2], [3]]), torch.zeros(5, 4).double()
    chances[0, 2] = chances[2, 3] = chances[4, 0] = 1
    assert walk(tree, chances, torch.zeros(3)) == ([1, 3], 0)
    chances[2, 3], chances[2, 1] = 0, 1
    assert walk(tree, chances, torch.zeros(3)) == ([1], 1)


def test_a_tree_is_scored_as_each_of_its_ways(target, uncached):
    scorer = TreeScorer(target)
    tree = DraftTree.of_paths([[5, 7, 9], [5, 8], [6, 7]])
    for row in ([1, 2, 3], [1, 2, 3, 4, 5]):
        logits, _ = scorer.score_tree(row, tree)
        ways = [row, *([*row, *(tree.tokens[i] for i in tree.way(n))] for n in range(6))]
        expected = uncached.score(ways, [1] * 7)
        assert (logits - expected).abs().max() <= 1e4 * EPS * expected.abs().max()
        scorer.keep_way(tree, [0, 3])  # 5, 8: nodes that do not lie side by side
        longer = [*row, 5, 8, 2]
        found, expected = scorer.score([longer], [1]), uncached.score([longer], [1])
        assert (found - expected).abs().max() <= 1e4 * EPS * expected.abs().max()


@pytest.mark.parametrize(
    "pipeline", [LogitsPipeline(0.0), LogitsPipeline(0.0, presence_penalty=2.0)]
)
def test_trees_decode_greedily_as_the_model(target, uncached, pipeline):
    torch.manual_seed(4)
    heads = DraftHeads(target, 2)
    rows = torch.randint(VOCABULARY, (2, 20))
    # Trained on the model's own text, so that some nodes are right.
    rows[0] = torch.tensor([3, *generate(uncached, [3], pipeline, StoppingRules(19))[0]])
    losses = fit_heads(target, heads, rows, epochs=30, learning_rate=0.05)
    assert losses[-1] < losses[0] / 2
    stopping = StoppingRules(19, stop_token_ids=(11,))
    row = TreeDecoder(target, heads, (3, 2), pipeline, stopping).decode([3])
    expected, reason = generate(uncached, [3], pipeline, stopping)
    assert ([*row.token_ids], row.finish_reason) == (expected, reason)
    counted = row.statistics
    assert 0 < counted.accepted < counted.drafted
    assert 0 <= counted.emitted - counted.target_passes - counted.accepted + 1 <= 1


def test_trees_draw_what_the_model_draws(target, uncached):
    """A token of plain decoding takes one number, one of a tree too: frequencies are compared."""
    heads, count = DraftHeads(target, 2), 400
    pipeline, stopping = LogitsPipeline(0.7, top_k=3), StoppingRules(2)
    made = TreeDecoder(target, heads, (3, 2), pipeline, stopping)
    found = [made.decode([3, 1], seed).token_ids for seed in range(count)]
    first = pipeline(uncached.score([[3, 1]], [1]))[0]
    for token in range(VOCABULARY):
        expected, spread = count * first[token], math.sqrt(count) / 2
        times = sum(row[0] == token for row in found)
        assert (times > 0) <= (expected > 0)
        assert abs(times - expected) <= 5 * spread
        if times >= 50:
            second = pipeline(uncached.score([[3, 1, token]], [1]))[0]
            for other in second.nonzero()[:, 0].tolist():
                seen = sum(row == (token, other) for row in found)
                assert abs(seen - times * second[other]) <= 5 * math.sqrt(times) / 2


def test_widths_that_do_not_fit_the_heads_are_refused(target):
    with pytest.raises(ValueError, match="for each of 2 heads"):
        TreeDecoder(target, DraftHeads(target, 2), (3,), LogitsPipeline(), StoppingRules(1))
