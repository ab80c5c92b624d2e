"""The step, the position and the layer where a cached pass parts from the plain one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tiny_models import make_model, make_tokenizer
from transformers.cache_utils import DynamicCache

from pytest_infopt.diagnose.decoding import DecodingDiagnosis
from pytest_infopt.diagnose.subjects import Deadline, Subjects
from pytest_infopt.engines.transformers.engine import TransformersEngine

TEXT = [(37 * i + 5) % 128 for i in range(40)]
PREFILL = len(TEXT) // 4


def _found(candidate: Any, dtype: torch.dtype = torch.float32) -> DecodingDiagnosis:
    reference = make_model("llama")
    engines = [
        TransformersEngine("tiny", module.to(of), make_tokenizer(), dtype=of)
        for module, of in (
            (reference, torch.float32),
            (candidate, dtype),
            (copy.deepcopy(reference), dtype),
        )
    ]
    return DecodingDiagnosis(Subjects(*engines, [TEXT], Deadline(60)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama"])
def test_a_sound_cache_parts_nowhere(architecture: str, dtype: torch.dtype) -> None:
    found = _found(make_model(architecture), dtype)
    assert found.first is None
    assert "no module parts" in found.sentences[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [15, 27])
def test_a_cache_that_overwrites_its_first_entry_is_named(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, length: int
) -> None:
    own = DynamicCache.update
    candidate = make_model("llama")
    calls = [0]

    def update(self: Any, keys: Any, values: Any, layer: int, *args: Any, **words: Any) -> Any:
        kept = own(self, keys, values, layer, *args, **words)
        if layer == 1 and calls[0] and kept[0].shape[-2] > length:
            return kept[0], torch.cat([values[..., -1:, :], kept[1][..., 1:, :]], dim=-2)
        return kept

    candidate.register_forward_pre_hook(lambda *_: calls.__setitem__(0, 1))
    candidate.register_forward_hook(lambda *_: calls.__setitem__(0, 0))
    monkeypatch.setattr(DynamicCache, "update", update)
    found = _found(candidate, dtype)
    assert found.first is not None
    assert found.first.block == "model.layers.1.self_attn"
    assert (found.first.position, found.first.step) == (length, length - PREFILL + 1)
    assert "layer 1" in found.sentences[0]
    assert "what the cache has kept" in found.sentences[1]


def test_a_module_that_computes_otherwise_for_single_tokens_is_named_itself() -> None:
    candidate = make_model("llama")
    candidate.model.layers[1].input_layernorm.register_forward_hook(
        lambda part, args, output: output * 1.1 if output.shape[-2] == 1 else output
    )
    found = _found(candidate)
    assert found.first is not None
    assert found.first.module == "model.layers.1.input_layernorm"
    assert (found.first.position, found.first.step) == (PREFILL, 1)
    assert "itself depends on the way" in found.sentences[1]
