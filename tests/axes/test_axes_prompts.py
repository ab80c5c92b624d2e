"""The corpus of prompts without near-ties, and the choice among them."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from pytest_infopt import Answer, assert_equivalent
from pytest_infopt.axes.prompts import corpus_prompts, corpus_texts, tie_free
from pytest_infopt.axes.sides import Side
from pytest_infopt.engines.base import InProcessEngine, able
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource


def test_the_widest_half_is_chosen_by_the_sides_own_gaps() -> None:
    answers = [Answer([1], top=[{1: -gap, 2: -2 * gap}]) for gap in (0.5, 0.1, 0.4, 0.2)]
    assert tie_free([[n] for n in range(4)], answers) == [0, 2]
    assert tie_free([[1], [2]], [answers[0], Answer([1])]) == [0, 1]  # not told of all


def test_a_server_is_asked_what_nobody_asked_before() -> None:
    side = Side(len, encode=lambda text: text)
    assert corpus_prompts(side) == corpus_prompts(side) == corpus_texts()
    server = Side(len, encode=lambda text: text, keeps_prompts=True)
    one, other = corpus_prompts(server), corpus_prompts(server)
    assert not set(one) & set(other)
    assert all(str(prompt).endswith(text) for prompt, text in zip(one, corpus_texts(), strict=True))


@pytest.mark.slow
def test_recorded_gaps_are_the_embedded_models() -> None:
    loaded = load_engine(ModelSource("smollm2", "embedded:smollm2", dtype="float32"))
    engine = able(loaded, InProcessEngine)
    text = (files("pytest_infopt") / "axes" / "prompts.jsonl").read_text(encoding="utf-8")
    for row in map(json.loads, text.splitlines()[::6]):
        ids = engine.encode(row["text"], "tokenizer")
        tokens = engine.greedy_tokens(ids, 16)
        best = engine.full_logits([*ids, *tokens])[len(ids) - 1 : -1].double().topk(2, -1).values
        gap = float((best[:, 0] - best[:, 1]).min())
        assert gap == pytest.approx(row["gap"], abs=0.005 + 1e-3)  # two decimals are recorded
    prompts = [engine.encode(text, "tokenizer") for text in corpus_texts()[:3]]
    assert assert_equivalent(engine, axis="alone/batched", prompts=prompts).parted == 0
