"""By which module a row's outputs depend on how the row is served."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import make_model, make_tokenizer

from pytest_infopt.diagnose.routes import RoutesDiagnosis
from pytest_infopt.diagnose.subjects import Deadline, Subjects
from pytest_infopt.engines.transformers.engine import TransformersEngine

TEXTS = [[(37 * i + 5 + j) % 128 for i in range(20)] for j in range(2)]
LAYER = "model.layers.1"
NEIGHBOURS = {
    "other neighbours of row 0",
    "other neighbours of row 1",
    "in a batch",
    "left padding",
}


def _found(damage: Callable[[Any], object], dtype: torch.dtype = torch.float32) -> RoutesDiagnosis:
    reference = make_model("llama")
    candidate = make_model("llama")
    damage(candidate)
    engines = [
        TransformersEngine("tiny", module.to(of), make_tokenizer(), dtype=of)
        for module, of in (
            (reference, torch.float32),
            (candidate, dtype),
            (copy.deepcopy(reference), dtype),
        )
    ]
    return RoutesDiagnosis(Subjects(*engines, TEXTS, Deadline(60)))


def _nothing(model: Any) -> None:
    pass


def _leak(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    return torch.cat([output[:1], output[1:] + 0.3 * output[:1]]) if len(output) > 1 else output


def _leaking_mlp(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_hook(_leak)


def _leaking_before_o_proj(model: Any) -> None:
    model.model.layers[1].self_attn.o_proj.register_forward_pre_hook(
        lambda module, args: (_leak(module, args, args[0]),)
    )


def _last_by_one(model: Any) -> None:
    model.lm_head.register_forward_hook(
        lambda module, args, output: output.roll(1, -1) if output.shape[-2] == 1 else output
    )


def _without_mask(model: Any) -> None:
    model.model.layers[1].self_attn.register_forward_pre_hook(
        lambda module, args, words: (args, {**words, "attention_mask": None}), with_kwargs=True
    )


def _seeing_ahead(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_hook(
        lambda module, args, output: output + 0.1 * output.mean(-2, keepdim=True)
    )


def _growing(model: Any) -> None:
    passes = itertools.count()
    model.model.layers[1].mlp.register_forward_hook(
        lambda module, args, output: output * (1 + next(passes))
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sound_model_depends_on_no_route(dtype: torch.dtype) -> None:
    found = _found(_nothing, dtype)
    assert found.differences == {}
    assert "no module's output depends" in found.sentences[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("damage", "routes", "module"),
    [
        (_leaking_mlp, {"other neighbours of row 1", "left padding"}, f"{LAYER}.mlp"),
        (_leaking_before_o_proj, {"other neighbours of row 1"}, f"{LAYER}.self_attn"),
        (_last_by_one, {"the last position alone"}, "lm_head"),
        (_without_mask, {"left padding"}, f"{LAYER}.self_attn"),
        (_seeing_ahead, {"other tokens behind"}, f"{LAYER}.mlp"),
        (_growing, {"the same pass again"}, f"{LAYER}.mlp"),
    ],
)
def test_the_module_that_depends_on_the_route_is_named(
    damage: Callable[[Any], object], routes: set[str], module: str, dtype: torch.dtype
) -> None:
    found = _found(damage, dtype)
    assert routes <= found.differences.keys()
    assert {difference.module for difference in found.differences.values()} == {module}
    assert any(f"{module}, " in sentence for sentence in found.sentences)
    assert found.figures.keys() == found.differences.keys()
