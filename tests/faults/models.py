"""The models that faults are planted into, each with the release that gates it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tiny_models import VOCABULARY, make_tokenizer
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    LlamaConfig,
    MixtralConfig,
)

FORMATS = ("float32", "bfloat16", "int8", "int4")
SMOLLM2 = "SmolLM2"

_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
DENSE = "dense"
_CONFIGS: dict[str, Callable[[int], Any]] = {
    DENSE: lambda n: LlamaConfig(**_SHAPE, num_hidden_layers=n, tie_word_embeddings=True),
    "experts": lambda n: MixtralConfig(
        **_SHAPE, num_hidden_layers=n, num_local_experts=4, num_experts_per_tok=2
    ),
    # Every second layer has the window; attention logits are bent by a cap.
    "sliding window": lambda n: Gemma2Config(
        **_SHAPE, num_hidden_layers=n, head_dim=16, sliding_window=24, query_pre_attn_scalar=16
    ),
    "latent attention": lambda n: DeepseekV3Config(
        **{**_SHAPE, "num_hidden_layers": n, "num_key_value_heads": 4},
        first_k_dense_replace=n // 2,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=32,
        q_lora_rank=32,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=24,
    ),
}
TINY = ("experts", "sliding window", "latent attention")
MODELS = (SMOLLM2, *TINY)

# Every format that is made in memory and that a tiny model takes; all are sound.
CLEAN = "clean"
_CALIBRATED = "options = {calibration = ['*.txt'], calibration_documents = 8}"
CLEAN_FORMATS: dict[str, str] = {
    "float16": 'dtype = "float16"',
    "int8-asymmetric": 'quantization = "int8"\noptions = {symmetric = false}',
    "int8-groups": 'quantization = "int8"\noptions = {group_size = 16}',
    "int4-groups-of-16": 'quantization = "int4"\noptions = {group_size = 16}',
    "int8-bfloat16": 'quantization = "int8"\ndtype = "bfloat16"',
    "int4-bfloat16": 'quantization = "int4"\ndtype = "bfloat16"',
    **{
        name: f'quantization = "{name}"'
        for name in (
            "int3", "nf4", "nf4-double", "fp4", "fp8", "fp8-e5m2", "llm-int8", "magnitude",
            "bitsandbytes-int8", "bitsandbytes-nf4", "bitsandbytes-fp4",
            "torchao-int8", "torchao-int8-dynamic", "torchao-int4", "torchao-float8",
            "quanto-int8", "quanto-int4",
        )
    },
    **{
        name: f'quantization = "{name}"\n{_CALIBRATED}'
        for name in ("gptq", "awq", "smoothquant", "wanda")
    },
}  # fmt: skip

_SERVED = """\
[caches]
prompts = 1
lengths = [16, 64]
batch_sizes = [2]
long_tokens = 160
system_tokens = 48
question_tokens = 8
requests = 2
[latency]
prompt_tokens = 16
new_tokens = 4
[batching]
batch_sizes = [1, 4]
requests = 2
max_pairs = 1
prompt_tokens = 8
new_tokens = 2
"""
_CANDIDATES = """
[candidates.float32]
dtype = "float32"
[candidates.bfloat16]
dtype = "bfloat16"
[candidates.int8]
quantization = "int8"
[candidates.int4]
quantization = "int4"
[diagnose]
seconds = 0
"""
_CLEAN_CANDIDATES = "".join(f"[candidates.{n}]\n{text}\n" for n, text in CLEAN_FORMATS.items())
# Weights are drawn at random, so that next tokens are guesses, and quality, which judges them, has
# limits of its own. All others are the defaults. Sessions here are short: the pass that is made
# again makes as many as a longer one has.
_TINY_RELEASE = f"""
reference = {{model = "reference", dtype = "float32"}}
[corpus]
files = ["*.txt"]
max_tokens = 256
[equivalence]
prompts = 3
tokens = 48
[stability]
repeats = 1024
seconds = 60
{_SERVED}{_CANDIDATES}"""
_SMOLLM2_RELEASE = f"""
reference = {{model = "embedded:smollm2", dtype = "float32"}}
[corpus]
max_tokens = 64
[equivalence]
prompts = 2
tokens = 16
[stability]
repeats = 256
seconds = 10
{_SERVED}{_CANDIDATES}"""
_DOCUMENTS = 30
_WORDS = (24, 60, 120, 256)  # of a document, in turn


def tiny(name: str, layers: int = 10) -> Any:
    """A tiny model with random weights, norms among them. Of ten layers, a module has as many
    siblings as it takes to know what is usual among them."""
    torch.manual_seed(7)
    config = _CONFIGS[name](layers)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                parameter += 0.2 * torch.randn_like(parameter)
            elif "embed" in parameter_name or "lm_head" in parameter_name:
                parameter *= 4
    model(input_ids=torch.arange(1, 13)[None])
    return model


def write_release(folder: Path, name: str) -> None:
    """An infopt.toml for a model and its clean candidates, with all that it takes beside it."""
    if name == SMOLLM2:
        (folder / "infopt.toml").write_text(_SMOLLM2_RELEASE, encoding="utf-8")
        return
    tiny(name).save_pretrained(folder / "reference")
    make_tokenizer().save_pretrained(folder / "reference")
    words = random.Random(1)
    for index in range(_DOCUMENTS):
        count = _WORDS[index % len(_WORDS)]
        text = " ".join(f"w{words.randrange(3, VOCABULARY)}" for _ in range(count))
        (folder / f"{index}.txt").write_text(text, encoding="utf-8")
    text = _TINY_RELEASE + (_CLEAN_CANDIDATES if name == DENSE else "")
    (folder / "infopt.toml").write_text(text, encoding="utf-8")
