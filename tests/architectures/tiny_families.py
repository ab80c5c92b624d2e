"""A tiny random model of every causal family that the installed transformers registers.

A family is a name of the table of `AutoModelForCausalLM`. Its default configuration is shrunk by
one table of sizes; `OVERRIDES` holds what some families need besides. Weights are drawn large
enough that every layer leaves its mark on the logits.
"""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import VOCABULARY
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
_LARGEST = 2_000_000  # parameters; beyond, a family takes minutes

_BY_SIZE: dict[int | float, str] = {
    VOCABULARY: "vocab_size vocab_size_per_layer_input",
    64: "hidden_size d_model n_embd n_embed dim embedding_size word_embed_proj_dim lru_width "
    "embedding_dim",
    96: "intermediate_size ffn_dim n_inner decoder_ffn_dim dff max_position_embeddings n_positions "
    "n_ctx max_seq_len max_seq_length max_target_positions encoder_ffn_dim ffn_hidden_size",
    32: "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size "
    "moe_shared_expert_intermediate_size shared_intermediate_size intermediate_size_mlp "
    "q_lora_rank kv_lora_rank",
    24: "v_head_dim qk_head_dim",
    16: "head_dim qk_nope_head_dim mamba_d_head mamba_head_dim linear_key_head_dim "
    "linear_head_dim linear_value_head_dim index_head_dim hidden_size_per_layer_input "
    "global_head_dim",
    # Two heads of an indexer would both say 0 of many keys, and which of these are seen is chance.
    8: "qk_rope_head_dim index_n_heads sliding_window attention_chunk_size mamba_d_state "
    "mamba_n_heads mamba_dt_rank state_size time_step_rank mamba_num_heads ssm_state_size "
    "chunk_size mamba_chunk_size laurel_rank",
    4: "num_attention_heads n_head num_heads n_heads decoder_attention_heads num_experts "
    "num_local_experts n_routed_experts moe_num_experts linear_num_value_heads linear_num_heads "
    "index_topk encoder_attention_heads attention_heads",
    2: "num_hidden_layers n_layer num_layers n_layers decoder_layers num_key_value_heads "
    "num_kv_heads num_experts_per_tok num_experts_per_token moe_top_k moe_k moe_topk mamba_expand "
    "n_groups n_mamba_heads linear_num_key_heads num_global_key_value_heads "
    "eos_token_id encoder_layers",
    1: "n_group topk_group num_expert_group mamba_n_groups mamba_ngroups bos_token_id",
    0: "pad_token_id",
    0.2: "initializer_range init_std",
}
SIZES = {name: size for size, names in _BY_SIZE.items() for name in names.split()}
_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers")
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_STATES_AND_ONE = ["linear_attention", "linear_attention", "hybrid"]

OVERRIDES: dict[str, dict[str, Any]] = {
    "axk1": {"mlp_layer_types": ["dense", "sparse"]},
    "axk2": {"mlp_layer_types": ["dense", "sparse"]},
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
        "logit_scale": 1.0,
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {
        "num_experts_per_tok": 2,
        "n_group": None,
        "topk_group": None,
        "first_k_dense_replace": 1,
    },
    "deepseek_v3": {"first_k_dense_replace": 1},
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    },
    "falcon": {"num_kv_heads": 1, "multi_query": True},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": [96] * 4,
        "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "per_layer_config": {1: {"head_dim": 32}, 3: {"head_dim": 32}},
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 8},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16, "num_experts": 4, "moe_topk": 2},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
    },
    "jetmoe": {"kv_channels": 16},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 2, "head_dim": 8},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "hc_lowrank": 16,
        "ngram_vocab_size_base": 64,
    },
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 8},
    "xglm": {"attention_heads": 4},
    "xlstm": {"num_blocks": 2},
    "zamba2": {
        "num_hidden_layers": 3,
        "layers_block_type": _STATES_AND_ONE,
        "num_key_value_heads": 4,
        "n_mamba_heads": 8,
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 32},
}


class TooLargeError(Exception):
    """The family's configuration has sizes that the table does not shrink."""


def tiny_config(family: str) -> Any:
    """The family's default configuration, or that of its text tower, made small."""
    text = CONFIG_MAPPING[family]().get_text_config(decoder=True)
    known = text.to_dict()
    sizes: dict[str, Any] = {
        name: size
        for name, size in SIZES.items()
        if isinstance(known.get(name), int | float) and not isinstance(known[name], bool)
    }
    if known.get("kv_lora_rank"):  # latent attention: keys of every head, and no other head size
        sizes["num_key_value_heads"] = sizes.get("num_attention_heads", 4)
        sizes.pop("head_dim", None)
    if kinds := list(dict.fromkeys(known.get("layer_types") or ())):
        sizes["layer_types"] = kinds if len(kinds) > 1 else kinds * 2
        sizes |= {name: len(sizes["layer_types"]) for name in _DEPTHS if name in sizes}
    return type(text)(**{**sizes, **OVERRIDES.get(text.model_type, {})})


def tiny_model(family: str) -> Any:
    """The family's tiny model in float32. Raises TooLargeError, or whatever the library raises."""
    config = tiny_config(family)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > _LARGEST:
        raise TooLargeError(f"{size} parameters")
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        model(input_ids=torch.arange(1, 13)[None])
    return model
