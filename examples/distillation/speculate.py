"""Speculative decoding of the embedded model with a student as its draft: what is accepted, and
what it brings.

    python3 examples/distillation/speculate.py students/draft

Greedy, one thread, prompts of the embedded corpus, which the student never saw. Plain decoding and
speculative decoding take turns; times are CPU seconds, the prompts' passes included. The draft's
head is cut to the first ids of the tokenizer, which are its commonest tokens: what it cannot say is
never drafted, and the output is the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from distil import embedded_model
from infopt_reference.decoding import (
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
from transformers import AutoModelForCausalLM

from pytest_infopt.corpus.embedded import embedded_texts

GREEDY = LogitsPipeline(temperature=0)
PROMPT = 24  # tokens
SIMULATED = 500  # outputs


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    model, tokenizer = embedded_model()
    student = AutoModelForCausalLM.from_pretrained(options.draft, dtype=torch.float32).eval()
    vocabulary = cut_head(student, options.vocabulary)
    target, draft = TransformersScorer(model), TransformersScorer(student)
    drafter = ModelDrafter(draft, target.vocab_size, vocabulary)
    rules = StoppingRules(options.length)
    decoder = SpeculativeDecoder(target, drafter, options.lookahead, GREEDY, rules)
    texts = [text for _, text in embedded_texts()]
    prompts = [tokenizer(text).input_ids[:PROMPT] for text in texts[:: options.every]]

    ratios, counted, same = [], list[SpeculativeStatistics](), 0
    generate(target, prompts[0], GREEDY, rules)  # a first call prepares what later ones find
    for number, prompt in enumerate(prompts):
        ways: list[Callable[[], Any]] = [
            lambda prompt=prompt: generate(target, prompt, GREEDY, rules)[0],
            lambda prompt=prompt: decoder.decode([prompt], [0])[0],
        ]
        order = (0, 1) if number % 2 else (1, 0)
        taken = {way: timed(ways[way]) for way in order}
        (plain, row), seconds = zip(*(taken[way] for way in (0, 1)), strict=True)
        ratios.append(seconds[0] / seconds[1])
        counted.append(row.statistics)
        same += [*row.token_ids] == plain

    total = sum(counted, SpeculativeStatistics())
    print(
        f"{len(prompts)} prompts, {options.length} tokens each, {options.lookahead} drafted for a "
        f"pass; {same} outputs are those of plain decoding"
    )
    print(
        f"accepted {total.acceptance_rate:.1%} ± {clustered_error(counted):.1%} of drafted tokens "
        "(standard error, clustered by prompt)"
    )
    print(f"{total.tokens_per_pass:.3f} tokens a pass")
    costs = measure_costs(target, draft, prompts[0], options.lookahead, GREEDY)
    acceptance = implied_acceptance(total.tokens_per_pass, options.lookahead)
    runs = [
        simulate(acceptance, options.lookahead, options.length, costs, seed)
        for seed in range(SIMULATED)
    ]
    simulated = sum(run.plain_seconds for run in runs) / sum(run.seconds for run in runs)
    of_draft, of_block = (
        taken / costs.target(1) for taken in (costs.draft, costs.target(options.lookahead + 1))
    )
    print(
        f"a pass of the draft takes {of_draft:.2f} of the target's, one over "
        f"{options.lookahead + 1} tokens {of_block:.2f}"
    )
    print(f"speed-up: measured {median(ratios):.3f}, simulated {simulated:.3f}")


def cut_head(student: Any, size: int) -> torch.Tensor:
    """Keep the head's first rows; the ids that are left."""
    weight = student.get_output_embeddings().weight[:size].detach().clone()
    head = torch.nn.Linear(weight.shape[1], len(weight), bias=False)
    head.weight = torch.nn.Parameter(weight, requires_grad=False)
    student.set_output_embeddings(head)
    return torch.arange(len(weight))


def timed(way: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    return way(), time.process_time() - started


def clustered_error(counted: list[SpeculativeStatistics]) -> float:
    """Standard error of the share accepted; drafts of one prompt are accepted together or not."""
    drafted = torch.tensor([each.drafted for each in counted], dtype=torch.float64)
    accepted = torch.tensor([each.accepted for each in counted], dtype=torch.float64)
    away = accepted - drafted * accepted.sum() / drafted.sum()
    n = len(counted)
    return float((away.square().sum() * n / (n - 1)).sqrt() / drafted.sum())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="decode speculatively with a student")
    parser.add_argument("draft", type=Path, help="the student's directory")
    parser.add_argument("--lookahead", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=8192, help="tokens that are drafted")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--every", type=int, default=4, help="prompts of each nth document alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
