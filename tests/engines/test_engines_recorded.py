"""What real servers answered, replayed: the engine understands each, and finds the model there.

The oracle is the same model in process. `recorded_server` says how answers are recorded.
"""

from __future__ import annotations

import re

import pytest
from recorded_server import FOLDER, NAME, PROMPTS, recorded, served, told, wire

DIALECTS = {
    "llama.cpp": "llama.cpp",
    "llama.cpp-chats": "chat",
    "transformers-serve": "openai",
    "vllm": "vllm",
}
# llama.cpp rounds activations to 8 bits: 0.003 nats of KL from the same weights elsewhere.
SAME_ARITHMETIC = ("transformers-serve", "vllm")


def test_every_recording_is_replayed() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == DIALECTS.keys()


@pytest.mark.parametrize("name", DIALECTS)
def test_a_recording_names_the_model_and_not_where_it_lay(name: str) -> None:
    told = " ".join(exchange["text"] for exchange in recorded(name)["exchanges"])
    named = set(re.findall(r'"model": ?"([^"]*)"', told))
    assert {each.partition("@")[0] for each in named} == {NAME}  # behind it, a revision


@pytest.mark.parametrize("name", DIALECTS)
def test_a_recorded_server_is_understood(name: str) -> None:
    recording = recorded(name)
    with wire(recording["exchanges"]) as server:
        with served(server) as engine:
            found = told(engine)
        assert server.unknown == []
    assert found == recording["told"]
    assert found["dialect"] == DIALECTS[name]
    for prompt in recording["in_process"]:
        own, of_server = recording["in_process"][prompt], found[prompt]
        assert of_server["tokens"] == of_server["stream"]
        if name in SAME_ARITHMETIC:
            assert of_server["tokens"] == own["tokens"]
        for exact, row in zip(own["rows"], of_server.get("rows", ()), strict=False):
            assert max(row, key=row.__getitem__) == max(exact, key=exact.__getitem__)


def test_log_probabilities_of_a_recorded_server_are_the_models() -> None:
    """vLLM computes in float32 as the reference does, in another order: sums of as many products
    as the model is wide, in each of its layers."""
    layers, width, unit_roundoff = 30, 576, 2.0**-24
    recording, rounding = recorded("vllm"), layers * width * unit_roundoff
    for prompt in PROMPTS:
        pairs = zip(
            recording["in_process"][prompt]["rows"], recording["told"][prompt]["rows"], strict=True
        )
        for exact, row in pairs:
            both = exact.keys() & row.keys()
            assert len(both) >= 20
            assert all(row[i] == pytest.approx(exact[i], rel=rounding) for i in both)
