"""Compiled models: their own Python code stays within reach, to compare with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from infopt_suites.gates.equivalence.logit_errors import measure_prompt
from tiny_models import SAMPLE_IDS, make_model, make_tokenizer
from torch.fx import GraphModule

from pytest_infopt.engines.transformers.engine import TransformersEngine

PROMPT = SAMPLE_IDS[:12]
Compile = Callable[[Any, Any], object]


def by_call(module: Any, backend: Any) -> None:
    module.compile(backend=backend)


def by_forward(module: Any, backend: Any) -> None:
    module.forward = torch.compile(module.forward, backend=backend)


def one_layer(module: Any, backend: Any) -> None:
    module.model.layers[1].mlp = torch.compile(module.model.layers[1].mlp, backend=backend)


def faithful(graph: GraphModule, inputs: object) -> Callable[..., Any]:
    return graph.forward


def fused_wrongly(graph: GraphModule, inputs: object) -> Callable[..., Any]:
    """A compiler that gives every floating-point result 2 % more."""
    return lambda *values: tuple(
        1.02 * value if torch.is_tensor(value) and value.is_floating_point() else value
        for value in graph.forward(*values)
    )


def engine_of(module: Any) -> TransformersEngine:
    return TransformersEngine("tiny", module, make_tokenizer(), dtype=torch.float32)


def compiled(compile_in_place: Compile, backend: Any) -> TransformersEngine:
    torch.compiler.reset()  # beyond some shapes of one function nothing more is compiled
    module = copy.deepcopy(make_model("llama"))
    compile_in_place(module, backend)
    return engine_of(module)


def served_error(engine: TransformersEngine) -> float:
    plain = engine_of(make_model("llama"))
    exact = make_model("llama").double()(torch.tensor([PROMPT])).logits[0]
    logits = plain.full_logits(PROMPT)
    values = measure_prompt(engine, plain, exact, logits, PROMPT, "prompt", lambda: plain).values
    return values["served_error_ratio"]


def test_what_was_not_compiled_has_no_other_code() -> None:
    assert engine_of(make_model("llama")).uncompiled_logits(PROMPT) is None


@pytest.mark.parametrize("compile_in_place", [by_call, by_forward, one_layer])
def test_the_own_code_of_a_compiled_model_is_run(compile_in_place: Compile) -> None:
    engine = compiled(compile_in_place, fused_wrongly)
    own = engine.uncompiled_logits(PROMPT)
    plain = engine_of(make_model("llama")).full_logits(PROMPT)
    assert own is not None
    assert torch.equal(own, plain)
    assert not torch.allclose(engine.full_logits(PROMPT), plain)


def test_a_wrong_compiler_fails_and_a_faithful_one_does_not() -> None:
    assert served_error(compiled(one_layer, faithful)) <= 2
    assert served_error(compiled(one_layer, fused_wrongly)) > 2
