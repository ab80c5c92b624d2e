"""How soon `assert_same_model` tells 4-bit from 16-bit, and how often it accuses an equal server.

SmolLM2-135M-Instruct in bfloat16 is the reference. Equal servers are the same weights with every
module's output off by one rounding unit, otherwise in every request. To reach: int4 told in at most
300 output tokens by shared seed and 50 requests by first token, at 1 % false alarms; at most 1 % of
300 sessions of equal servers accused.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch

from pytest_infopt import assert_same_model
from pytest_infopt.corpus.embedded import embedded_texts
from pytest_infopt.engines.base import InProcessEngine, able
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.errors import NotEquivalentError
from pytest_infopt.measure import rounded_once_more
from pytest_infopt.release import ModelSource

KINDS = ("first token", "border inputs", "shared seed")
PROMPTS, TOKENS, EQUALS, SESSIONS = 24, 12, 4, 300
COLUMNS = 256  # of the vocabulary, where sessions are repeated: noise is drawn for each

Logits = dict[tuple[int, ...], torch.Tensor]


def loaded(quantization: str) -> InProcessEngine:
    source = ModelSource(
        quantization, "embedded:smollm2", quantization=quantization, dtype="bfloat16"
    )
    return able(load_engine(source), InProcessEngine)


def logits_of(engine: InProcessEngine, prompts: Sequence[tuple[int, ...]]) -> Logits:
    return {prompt: engine.full_logits(prompt).float() for prompt in prompts}


def equal_server(
    readings: Sequence[Logits], draw: random.Random, prompt: Sequence[int]
) -> torch.Tensor:
    return draw.choice(readings)[tuple(prompt)]


def told(by: str, a: Callable[..., object], control: Callable[..., object], b: Logits) -> str:
    prompts = list(b)
    try:
        found = assert_same_model(
            a, lambda prompt: b[tuple(prompt)], by=by, control=control, prompts=prompts
        )
    except NotEquivalentError as error:
        return str(error)
    return f"NOT TOLD in {found.requests} requests, p = {found.p:.3g}"


def accused(by: str, readings: Sequence[Logits]) -> int:
    narrow = [{prompt: rows[:, :COLUMNS] for prompt, rows in each.items()} for each in readings]
    count = 0
    for session in range(SESSIONS):
        sides = [
            partial(equal_server, narrow, random.Random(f"{session} {side}")) for side in "abc"
        ]
        try:
            assert_same_model(
                sides[0], sides[1], by=by, control=sides[2], prompts=list(narrow[0]), seed=session
            )
        except NotEquivalentError:
            count += 1
    return count


def main() -> int:
    reference = loaded("none")
    texts = [text for _, text in embedded_texts()[:PROMPTS]]
    prompts = [tuple(reference.encode(text, "tokenizer")[:TOKENS]) for text in texts]
    readings = [logits_of(reference, prompts)]
    for seed in range(EQUALS):
        with rounded_once_more(reference.module, seed):
            readings.append(logits_of(reference, prompts))
    reference.close()
    quantized = logits_of(loaded("int4"), prompts)
    failed = False
    for by in KINDS:
        a, control = (
            partial(equal_server, readings, random.Random(side)) for side in ("a", "control")
        )
        said = told(by, a, control, quantized)
        print(f"{by}: int4 {said}", flush=True)
        alarms = accused(by, readings)
        print(f"{by}: {alarms} of {SESSIONS} sessions of equal servers accused", flush=True)
        failed |= alarms > SESSIONS // 100 or (by != "border inputs" and "NOT TOLD" in said)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
