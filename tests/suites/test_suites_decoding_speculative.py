"""SpeculativeSuite accepts the reference: on tables, through caches, in batches, with trees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
import torch
from infopt_reference.decoding import (
    DraftTree,
    FunctionScorer,
    LogitsPipeline,
    ModelDrafter,
    SpeculativeDecoder,
    SpeculativeStatistics,
    StoppingRules,
    walk,
)
from infopt_suites.decoding import (
    DecodingParameters,
    LanguageModel,
    MakeSpeculativeDecoder,
    SpeculativeCounts,
    SpeculativeSuite,
)
from infopt_suites.decoding.evidence import Evidence
from infopt_suites.decoding.pairs import PAIRS, Pair
from torch import Tensor

Tokens = Sequence[int]


def pipeline_of(parameters: DecodingParameters) -> LogitsPipeline:
    return LogitsPipeline(
        parameters.temperature,
        parameters.top_k,
        parameters.top_p,
        parameters.min_p,
        parameters.repetition_penalty,
        parameters.presence_penalty,
        parameters.frequency_penalty,
    )


def stopping_of(parameters: DecodingParameters) -> StoppingRules:
    return StoppingRules(
        parameters.max_new_tokens, parameters.stop_token_ids, parameters.stop_sequences
    )


class Reference:
    """The reference's decoder, as the suite's protocol."""

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        self.target, self.draft, self.lookahead = target, draft, lookahead
        self.statistics = SpeculativeStatistics()

    def scorer(self, model: LanguageModel, parameters: DecodingParameters) -> FunctionScorer:
        def function(row: Tokens) -> Tensor:
            logits = model(row)
            if parameters.processor is not None:
                places = range(1, len(row) + 1)
                processed = [parameters.processor(row[:n], logits[n - 1]) for n in places]
                logits = torch.stack(processed)
            return logits

        return FunctionScorer(function, model.vocab_size)

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> Sequence[Tokens]:
        decoder = SpeculativeDecoder(
            self.scorer(self.target, parameters),
            ModelDrafter(self.scorer(self.draft, parameters), self.draft.vocab_size),
            self.lookahead,
            pipeline_of(parameters),
            stopping_of(parameters),
        )
        rows = decoder.decode(prompts, seeds)
        self.statistics = sum((row.statistics for row in rows), SpeculativeStatistics())
        return [row.token_ids for row in rows]

    def generate(self, prompt: Tokens, parameters: DecodingParameters, seed: int) -> Tokens:
        return self.generate_batch([prompt], parameters, [seed])[0]

    def counts(self) -> SpeculativeCounts:
        counted = self.statistics
        return SpeculativeCounts(counted.target_passes, counted.drafted, counted.accepted)

    def generate_from_candidates(
        self,
        prompt: Tokens,
        parameters: DecodingParameters,
        propose: Callable[[Tokens], Sequence[Tokens]],
        seed: int,
    ) -> Tokens:
        scorer, pipeline = self.scorer(self.target, parameters), pipeline_of(parameters)
        generator = torch.Generator().manual_seed(seed)
        output, reason = [], None
        while reason is None:
            row = [*prompt, *output]
            tree = DraftTree.of_paths(propose(row))
            ways: list[list[int]] = [[], *(tree.way(i) for i in range(len(tree.tokens)))]
            rows = [[*row, *(tree.tokens[i] for i in way)] for way in ways]
            chances = pipeline(scorer.score(rows, [1] * len(rows)), rows, [len(prompt)] * len(rows))
            uniforms = torch.rand(9, generator=generator, dtype=torch.float64)
            nodes, token = walk(tree, chances, uniforms)
            drawn = [*(tree.tokens[node] for node in nodes), token]
            output, reason = stopping_of(parameters).extended(output, drawn)
        return output


class CachedScorer:
    """One row of a model of the suite, asked through its cache."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.vocab_size = model, model.vocab_size
        self.cache, self.held = model.new_cache(), list[int]()

    def score(self, rows: Sequence[Tokens], counts: Sequence[int]) -> Tensor:
        (row,), (count,) = rows, counts
        pairs = zip(self.held, row, strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), len(self.held))
        kept = min(shared, len(row) - count)
        self.cache.crop(kept)
        self.held = [*row]
        return self.model.extend(self.cache, row[kept:])[-count:]

    def select(self, rows: Sequence[int]) -> None:
        pass


class ThroughCaches(Reference):
    def scorer(self, model: LanguageModel, parameters: DecodingParameters) -> Any:
        return CachedScorer(model)


class OfReference(SpeculativeSuite):
    capabilities = frozenset(SpeculativeSuite.offers) - {"samples", "caches"}

    @pytest.fixture
    def make_speculative_decoder(self) -> MakeSpeculativeDecoder:
        return Reference


class TestReference(OfReference):
    sampled_tokens = 6000
    examples = 5


@pytest.mark.slow
class TestReferenceAtFullLength(OfReference):
    pass


class TestReferenceThroughCaches(SpeculativeSuite):
    capabilities = frozenset({"caches", "counts", "lookahead", "stop-tokens", "stop-sequences"})
    examples = 5

    @pytest.fixture
    def make_speculative_decoder(self) -> MakeSpeculativeDecoder:
        return ThroughCaches


# The test of drawn tokens itself


def shares(pair: Pair, variation: float) -> list[tuple[tuple[float, ...], list[float]]]:
    """The target's chances in each state, and others that far off, where it is hardest to see.

    Half of the probability takes from the other half, each token in proportion.
    """
    found = []
    for p in pair.target.softmax(-1).tolist():
        taken, order = 0.0, sorted(range(len(p)), key=lambda i: -p[i])
        first = set()
        for token in order:
            if taken + p[token] <= 0.5 + 1e-9:
                first.add(token)
                taken += p[token]
        far = [
            x * (1 + variation / taken) if i in first else x * (1 - variation / (1 - taken))
            for i, x in enumerate(p)
        ]
        found.append((tuple(p), far))
    return found


def refuted(pair: Pair, variation: float, luck: numpy.random.Generator) -> bool:
    """Whether tokens that are so far off, half of them drawn in each state, are refuted."""
    evidence = Evidence()
    for p, far in shares(pair, variation):
        drawn = luck.multinomial(SpeculativeSuite.sampled_tokens // 2, far)
        evidence.counts[p] = drawn.tolist()
    return evidence.refuted


@pytest.mark.parametrize("pair", PAIRS.values(), ids=str)
def test_a_total_variation_of_two_percent_is_seen(pair: Pair) -> None:
    """The planted fault: 300 runs, of which the power of .99 lets 3 escape, 10 are far out."""
    luck = numpy.random.default_rng(17)
    assert sum(refuted(pair, 0.02, luck) for _ in range(300)) >= 290


def test_what_is_drawn_rightly_is_hardly_ever_refuted() -> None:
    """E has the mean 1, by the definition: summed over every outcome of a few draws."""
    chances = (0.5, 0.3, 0.2)
    mean = 0.0
    for tokens in itertools.product(range(3), repeat=6):
        evidence = Evidence()
        for token in tokens:
            evidence.add(chances, token)
        mean += math.exp(evidence.log_e()) * math.prod(chances[token] for token in tokens)
    assert mean == pytest.approx(1, rel=1e-9)


def test_a_token_of_no_chance_is_refuted_at_once() -> None:
    evidence = Evidence()
    assert not evidence.refuted
    evidence.add((1.0, 0.0), 0)
    assert evidence.log_e() == pytest.approx(0)
    evidence.add((1.0, 0.0), 1)
    assert evidence.refuted
    assert "token 1 has the chance 0" in evidence.worst()
