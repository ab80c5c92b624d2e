"""Tiny random models whose weights lie in many kinds of places, and those places by hand.

`LAYOUTS` names a configuration and, in the words of the checkpoint, the parameters that are
multiplied with activations: for each, how often it occurs and its weights. Written from the models'
papers and checkpoints, not from any walk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY = 128
_WIDTH, _INNER, _EXPERTS, _LAYERS = 64, 128, 4, 2
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": _WIDTH,
    "intermediate_size": _INNER,
    "num_hidden_layers": _LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_ATTENTION = 2 * _WIDTH * _WIDTH + 2 * _WIDTH * _WIDTH // 2  # q, o; k, v of half the heads


@dataclass(frozen=True)
class Layout:
    """A model type, its settings, and the weights of all its matrices but the head, by hand."""

    settings: dict[str, Any]
    weights: int  # that can be quantized
    experts: int = 0  # of those, in stacks
    routers: int = 0  # weights that are left alone, since they choose experts


def _experts(inner: int, count: int = _EXPERTS) -> int:
    """Gate, up and down of every expert of a layer."""
    return count * 3 * _WIDTH * inner


_MIXERS = {"mamba": 2 * 128 * 64 + 24 * 128 + 128 * 8 + 64 * 128}  # in, x, dt, out

LAYOUTS: dict[str, Layout] = {
    "llama": Layout(_COMMON, 2 * (_ATTENTION + 3 * _WIDTH * _INNER)),
    "mixtral": Layout(
        _COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2},
        2 * (_ATTENTION + _experts(_INNER)),
        experts=2 * _experts(_INNER),
        routers=2 * 4 * _WIDTH,
    ),
    "qwen3_moe": Layout(
        _COMMON
        | {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 16},
        2 * (_ATTENTION + _experts(32)),
        experts=2 * _experts(32),
        routers=2 * 4 * _WIDTH,
    ),
    "gpt_oss": Layout(  # experts are stored [in, out]
        _COMMON
        | {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 16,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        2 * (_ATTENTION + _experts(_INNER)),
        experts=2 * _experts(_INNER),
        routers=2 * 4 * _WIDTH,
    ),
    "gpt2": Layout(  # Conv1D, stored [in, out]: c_attn, c_proj, c_fc, c_proj
        {
            "vocab_size": VOCABULARY,
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 96,
            "initializer_range": 0.2,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        2 * (64 * 192 + 64 * 64 + 2 * 64 * 256),
    ),
    "falcon": Layout(  # a linear layer of its own; one key and value head
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "initializer_range": 0.2,
        },
        2 * (96 * 64 + 64 * 64 + 2 * 64 * 256),
    ),
    "jamba": Layout(  # a Mamba layer with an MLP, an attention layer with experts
        _COMMON
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 8,
        },
        _MIXERS["mamba"] + 3 * _WIDTH * _INNER + _ATTENTION + _experts(_INNER),
        experts=_experts(_INNER),
        routers=4 * _WIDTH,
    ),
    "mamba": Layout(  # its mixer reads dt_proj.weight itself
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "state_size": 8,
            "time_step_rank": 8,
            "initializer_range": 0.2,
        },
        2 * _MIXERS["mamba"],
    ),
    "deepseek_v3": Layout(  # latent attention; a dense layer, then one with experts, one shared
        _COMMON
        | {
            "num_key_value_heads": 4,
            "moe_intermediate_size": 32,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 2,
            "q_lora_rank": 32,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 16,
            "first_k_dense_replace": 1,
        },
        2 * (32 * 64 + 4 * 24 * 32 + (32 + 8) * 64 + 4 * 32 * 32 + 64 * 64)
        + 3 * _WIDTH * _INNER
        + _experts(32)
        + _experts(32, count=1),
        experts=_experts(32),
        routers=4 * _WIDTH,
    ),
}
MIXTURES = [name for name, layout in LAYOUTS.items() if layout.experts]


def make_layout(name: str) -> Any:
    """The named model in float32, the same each time."""
    torch.manual_seed(7)
    configuration: Callable[..., Any] = CONFIG_MAPPING[name]
    model = AutoModelForCausalLM.from_config(
        configuration(**LAYOUTS[name].settings), dtype=torch.float32
    )
    for parameter in model.parameters():
        if not bool(parameter.any()) and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def token_ids(rows: int = 2, length: int = 24, seed: int = 0) -> torch.Tensor:
    """Token ids [rows, length]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)
