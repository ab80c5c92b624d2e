"""Speculative decoding against transformers' assisted generation, the simulator, and the test of
drawn tokens.

Run as a script, `python bench_speculative.py [--draft PATH] [--lookahead K]`. SmolLM2-135M in
float32 is the target. The draft is 24 of its 30 layers, made on the spot; or a student, such as
examples/distillation leaves in students/draft. One thread, greedy, K drafted tokens for
every pass (transformers' constant schedule, no threshold of confidence).

Generation: each prompt, of 24 tokens, is continued by 48. Contenders take turns, in one order and
in the other; a ratio is the median over the pairs. Plain decoding takes turns too: its time over
ours is the measured speed-up, and the simulator foretells it from the tokens that a pass emitted
and from what passes take. The prompts' own passes are in the measured times alone.

Test of drawn tokens: 3 tokens of a vocabulary of 8, as many as the suite draws, of one pair.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from infopt_reference.decoding import (
    FunctionScorer,
    LogitsPipeline,
    ModelDrafter,
    SpeculativeDecoder,
    SpeculativeStatistics,
    StoppingRules,
    generate,
    implied_acceptance,
    measure_costs,
    simulate,
)
from infopt_reference.decoding.transformers_scorer import TransformersScorer
from infopt_reference.distillation import keep_layers
from infopt_suites.decoding import DecodingParameters, LanguageModel, SpeculativeSuite
from infopt_suites.decoding.pairs import PAIRS
from infopt_suites.decoding.trial import Trial
from transformers import AutoModelForCausalLM

from pytest_infopt.corpus.embedded import embedded_texts
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource

PROMPTS, PROMPT, LENGTH = 8, 24, 48
GREEDY, RULES = LogitsPipeline(temperature=0), StoppingRules(LENGTH)
LEFT_OUT = {5, 12, 13, 16, 17, 19}  # layers without which the model says the same most often
PEER_LIMIT, SIMULATOR_LIMIT, DECISION_SECONDS = 1.0, 0.15, 5.0
Tokens = Sequence[int]


class Contenders:
    """One pair of models, decoded in three ways."""

    def __init__(self, target: Any, draft: Any, lookahead: int) -> None:
        self.target, self.draft, self.lookahead = target, draft, lookahead
        self.counted = SpeculativeStatistics()
        settings = draft.generation_config
        settings.num_assistant_tokens, settings.assistant_confidence_threshold = lookahead, 0.0
        settings.num_assistant_tokens_schedule = "constant"

    def scorers(self) -> tuple[TransformersScorer, TransformersScorer]:
        return TransformersScorer(self.target), TransformersScorer(self.draft)

    def plain(self, prompt: Tokens) -> Tokens:
        return generate(self.scorers()[0], prompt, GREEDY, RULES)[0]

    def speculative(self, prompt: Tokens) -> Tokens:
        target, draft = self.scorers()
        drafter = ModelDrafter(draft, target.vocab_size)
        decoder = SpeculativeDecoder(target, drafter, self.lookahead, GREEDY, RULES)
        (row,) = decoder.decode([prompt], [0])
        self.counted += row.statistics
        return row.token_ids

    def assisted(self, prompt: Tokens) -> Tokens:
        ids = torch.tensor([list(prompt)])
        found = self.target.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            assistant_model=self.draft,
            max_new_tokens=LENGTH,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        return found[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


def compare_generation(target: Any, draft: Any, prompts: list[Tokens], lookahead: int) -> None:
    pair = Contenders(target, draft, lookahead)
    ways: dict[str, Callable[[Tokens], Tokens]] = {
        "plain": pair.plain,
        "speculative": pair.speculative,
        "transformers, assisted": pair.assisted,
    }
    for way in ways.values():
        way(prompts[0])  # a first call prepares what later ones find
    pair.counted = SpeculativeStatistics()
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    same = 0
    for number, prompt in enumerate(prompts):
        outputs = {}
        for name in list(ways)[:: -1 if number % 2 else 1]:
            started = time.perf_counter(), time.process_time()
            outputs[name] = [*ways[name](prompt)]
            wall[name].append(time.perf_counter() - started[0])
            cpu[name].append(time.process_time() - started[1])
        same += len({tuple(output) for output in outputs.values()}) == 1
    counted = pair.counted
    print(
        f"{len(prompts)} prompts, {LENGTH} tokens each, {lookahead} drafted for a pass; all three "
        f"say the same of {same} prompts"
    )
    print(f"  {counted.acceptance_rate:.0%} of drafted tokens accepted, ", end="")
    print(f"{counted.tokens_per_pass:.2f} tokens a pass")
    for name in ways:
        each = [1e3 * statistics.median(x[name]) / LENGTH for x in (wall, cpu)]
        print(f"  {name:<24} {each[0]:6.1f} ms a token, {each[1]:6.1f} of CPU")
    for told, times in (("wall-clock", wall), ("CPU", cpu)):
        ratio = median_ratio(times["speculative"], times["transformers, assisted"])
        print(f"{told} a token, times that of assisted generation: {ratio:.3f}, limit {PEER_LIMIT}")
    compare_simulator(pair, prompts, median_ratio(cpu["plain"], cpu["speculative"]))


def compare_simulator(pair: Contenders, prompts: list[Tokens], measured: float) -> None:
    acceptance = implied_acceptance(pair.counted.tokens_per_pass, pair.lookahead)
    scorers = pair.scorers()
    row = [*prompts[0], *pair.plain(prompts[0])][: PROMPT + LENGTH // 2]
    costs = measure_costs(*scorers, row, pair.lookahead, GREEDY)
    # Many outputs of this length: their ends are in the figure, and luck is not.
    runs = [simulate(acceptance, pair.lookahead, LENGTH, costs, seed) for seed in range(500)]
    told = sum(run.plain_seconds for run in runs) / sum(run.seconds for run in runs)
    print(
        f"a pass of the draft takes {costs.draft / costs.target(1):.2f} of the target's, one over "
        f"{pair.lookahead + 1} tokens {costs.target(pair.lookahead + 1) / costs.target(1):.2f}"
    )
    print(
        f"speed-up: measured {measured:.3f}, simulated {told:.3f}, {told / measured - 1:+.1%}, "
        f"limit ±{SIMULATOR_LIMIT:.0%}"
    )


def median_ratio(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


class BatchedReference:
    """The reference's decoder, as the suite asks for outputs."""

    def __init__(self, target: LanguageModel, draft: LanguageModel, lookahead: int) -> None:
        self.models, self.lookahead = (target, draft), lookahead

    def generate_batch(
        self, prompts: Sequence[Tokens], parameters: DecodingParameters, seeds: Sequence[int]
    ) -> list[Tokens]:
        target, draft = (FunctionScorer(model, model.vocab_size) for model in self.models)
        decoder = SpeculativeDecoder(
            target,
            ModelDrafter(draft, target.vocab_size),
            self.lookahead,
            LogitsPipeline(parameters.temperature),
            StoppingRules(parameters.max_new_tokens),
        )
        return [row.token_ids for row in decoder.decode(prompts, seeds)]


def time_decision() -> None:
    """How long the suite's test takes to decide on one pair, the decoder's own work included."""
    prompt, parameters = (1, 4, 2), DecodingParameters(3, 1.0)
    pair = PAIRS["nearly disjoint"]
    trial = Trial(BatchedReference, *pair.models(), 2)  # type: ignore[arg-type]  # no `generate`

    def draw(seed: int, count: int) -> Sequence[Tokens]:
        found: Sequence[Tokens] = trial.decoder.generate_batch(
            [prompt] * count, parameters, range(seed, seed + count)
        )
        return found

    started = time.process_time()
    trial.draw(prompt, parameters, SpeculativeSuite.sampled_tokens, draw)
    print(
        f"3 tokens of a vocabulary of 8: decided after {SpeculativeSuite.sampled_tokens:,} tokens "
        f"and {time.process_time() - started:.1f} s, limit {DECISION_SECONDS:g}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="speculative decoding")
    parser.add_argument("--draft", type=Path, help="a student's directory")
    parser.add_argument("--lookahead", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    time_decision()
    source = ModelSource("smollm2", "embedded:smollm2", dtype="float32", device="cpu")
    engine: Any = load_engine(source)
    target = engine.module
    if options.draft is None:
        layers = range(target.config.num_hidden_layers)
        draft = keep_layers(target, [layer for layer in layers if layer not in LEFT_OUT])
    else:
        draft = AutoModelForCausalLM.from_pretrained(options.draft, dtype=torch.float32).eval()
    every = [text for _, text in embedded_texts()]
    ids = [list(engine.encode(text))[:PROMPT] for text in every[:: len(every) // PROMPTS][:PROMPTS]]
    compare_generation(target, draft, ids, options.lookahead)
    return 0


if __name__ == "__main__":
    sys.exit(main())
