"""Models that are not causal are refused: before any weight is read where config.json tells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tiny_models import VOCABULARY, make_model
from transformers import AutoModelForCausalLM, BertConfig, BertGenerationConfig, LlamaConfig

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.causal import check_config
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import ModelLoadError
from pytest_infopt.process.causality import check_causality
from pytest_infopt.release import ModelSource


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "t5"}, r"model 'm' is an encoder-decoder model \(t5\);"),
        ({"model_type": "bart"}, r"model 'm' is an encoder-decoder model \(bart\);"),
        ({"model_type": "whisper"}, "encoder-decoder"),
        ({"model_type": "own", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"model_type": "bert"}, r"model 'm' \(bert\) predicts masked tokens from both sides;"),
        ({"model_type": "roberta", "is_decoder": False}, "predicts masked tokens"),
        ({"model_type": "modernbert"}, "predicts masked tokens"),
    ],
)
def test_what_config_json_says(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelLoadError, match=reason):
        check_config(config, "m")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "mamba"},
        {"model_type": "bert", "is_decoder": True},
        {"model_type": "bart", "is_encoder_decoder": False, "is_decoder": True},
        {"model_type": "of-its-own"},
        {},
    ],
)
def test_causal_models_and_unknown_ones_go_on(config: dict[str, Any]) -> None:
    check_config(config, "m")


def test_no_weight_is_read_of_a_model_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    (tmp_path / "model.safetensors").write_bytes(_empty_safetensors())
    with pytest.raises(ModelLoadError, match="encoder-decoder model"):
        load_engine(ModelSource("m", str(tmp_path)))


def _empty_safetensors() -> bytes:
    return (2).to_bytes(8, "little") + b"{}"


HEADS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "initializer_range": 0.2, **HEADS}


def _engine(module: Any, dtype: torch.dtype) -> TransformersEngine:
    return TransformersEngine("m", module.to(dtype), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [BertGenerationConfig, BertConfig])
def test_the_logits_say_what_the_configuration_does_not(config: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(7)
    looks_both_ways = AutoModelForCausalLM.from_config(config(**SMALL), dtype=torch.float32)
    with pytest.raises(ModelLoadError, match="change with the token behind them"):
        check_causality(_engine(looks_both_ways, dtype))
    torch.manual_seed(7)
    decoder = AutoModelForCausalLM.from_config(config(**SMALL, is_decoder=True))
    check_causality(_engine(decoder, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_causal_models_pass(dtype: torch.dtype) -> None:
    check_causality(_engine(make_model("llama"), dtype))
    check_causality(_engine(AutoModelForCausalLM.from_config(LlamaConfig(**SMALL)), dtype))


@pytest.mark.parametrize("ulps", [8, 200])
def test_rounding_at_every_position_is_no_look_ahead(ulps: int) -> None:
    """As in a mixture of experts, whose grouped products have another shape for other tokens."""
    engine = _engine(make_model("llama"), torch.float32)
    eps = torch.finfo(torch.float32).eps

    class Rounded:
        name, dtype = engine.name, engine.dtype
        context_window, vocabulary = engine.context_window, engine.vocabulary

        def full_logits(self, ids: Sequence[int]) -> torch.Tensor:
            logits = engine.full_logits(ids)
            return logits + ulps * eps * (ids[-1] % 2) * logits.abs().amax(-1, keepdim=True)

    check_causality(cast(Any, Rounded()))
