"""The same pass again: a sound engine gives the same bits, and where two passes part is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from infopt_suites.gates.stability.measure import repeated
from tiny_models import CONFIGS, SAMPLE_IDS, make_model, make_tokenizer
from torch import nn

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.measure import RepeatedPass, calls_of_modules, differing_rows, first_difference

REPEATS = 8
UNBOUNDED = float("inf")


def engine(architecture: str = "llama", dtype: torch.dtype = torch.float32) -> TransformersEngine:
    module = copy.deepcopy(make_model(architecture)).to(dtype)
    return TransformersEngine("tiny", module, make_tokenizer(), dtype=dtype)


def after(passes: int, fault: Callable[[torch.Tensor], torch.Tensor], each: int = 0) -> Any:
    """A forward hook that changes a module's output after so many calls, or at each n-th."""
    calls = 0

    def hook(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        struck = calls % each == 0 if each else calls > passes
        return fault(output) if struck else output

    return hook


@pytest.mark.parametrize("architecture", sorted(CONFIGS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_engine_repeats_itself(architecture: str, dtype: torch.dtype) -> None:
    sound = engine(architecture, dtype)
    known = RepeatedPass(sound)
    for prompt in (SAMPLE_IDS, SAMPLE_IDS[:3]):  # a session of other requests
        sound.full_logits(prompt)
        sound.generate([prompt, prompt[:2]], [3, 2])
    assert repeated(known, REPEATS, UNBOUNDED) == (REPEATS, [], [])
    assert (
        first_difference(calls_of_modules(sound, SAMPLE_IDS), calls_of_modules(sound, SAMPLE_IDS))
        == ""
    )


DRAWN: dict[str, Callable[[Any], str]] = {}


def drawn(plant: Callable[[Any], str]) -> Callable[[Any], str]:
    DRAWN[plant.__name__] = plant
    return plant


@drawn
def dropout_in_an_mlp(module: Any) -> str:
    layer = module.model.layers[1].mlp
    layer.act_fn = nn.Sequential(layer.act_fn, nn.Dropout(0.01).train())
    return "in model.layers.1.mlp.act_fn.1"


@drawn
def dropout_in_attention(module: Any) -> str:
    attention = module.model.layers[1].self_attn
    attention.attention_dropout = 0.05
    attention.training = True
    return "in model.layers.1.self_attn, before model.layers.1.self_attn.o_proj"


@drawn
def a_race_in_a_projection(module: Any) -> str:
    part = module.model.layers[0].self_attn.v_proj
    part.register_forward_hook(after(0, lambda output: output.roll(1, -1), each=5))
    return "in model.layers.0.self_attn.v_proj"


@drawn
def noise_on_the_logits(module: Any) -> str:
    module.lm_head.register_forward_hook(
        lambda part, args, output: output + torch.randn_like(output) * 1e-6
    )
    return "in lm_head"


@pytest.mark.parametrize("plant", DRAWN.values(), ids=DRAWN)
def test_what_is_drawn_at_random_differs_between_repeats(plant: Callable[[Any], str]) -> None:
    torch.manual_seed(0)
    broken = engine()
    where = plant(broken.module)
    known = RepeatedPass(broken)
    count, rows, _ = repeated(known, REPEATS, UNBOUNDED)
    assert count == REPEATS
    assert rows
    found = {
        first_difference(
            calls_of_modules(broken, known.token_ids), calls_of_modules(broken, known.token_ids)
        )
        for _ in range(REPEATS)
    }
    assert found - {""} == {where}


@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_what_has_changed_since_differs_from_the_first_pass_alone(size: float) -> None:
    broken = engine()
    broken.module.model.layers[1].mlp.register_forward_hook(
        after(6, lambda output: output * (1 + size))
    )
    known = RepeatedPass(broken)
    for _ in range(6):
        broken.full_logits(SAMPLE_IDS)
    _, rows, moved = repeated(known, 2, UNBOUNDED)
    assert rows == []
    assert moved == list(range(len(known.token_ids)))
    fresh, now = calls_of_modules(engine(), SAMPLE_IDS), calls_of_modules(broken, SAMPLE_IDS)
    assert first_difference(fresh, now) == "in model.layers.1.mlp"


def test_two_repetitions_are_made_however_slow_they_are() -> None:
    assert repeated(RepeatedPass(engine()), REPEATS, 0.0) == (2, [], [])


def test_a_difference_of_one_bit_is_one() -> None:
    logits = torch.randn(5, 7)
    other = logits.clone()
    other[3, 6] = torch.nextafter(other[3, 6], torch.tensor(torch.inf))
    assert differing_rows(logits, other) == [3]
    assert differing_rows(torch.zeros(2, 2), -torch.zeros(2, 2)) == []
