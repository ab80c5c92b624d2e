"""Rotary embeddings of eight architectures of transformers through RopeSuite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from infopt_suites.attention import MakeRope, RopeSpec, RopeSuite
from infopt_suites.attention.rope_protocol import (
    Dynamic,
    Linear,
    Llama3,
    LongRope,
    Proportional,
    Yarn,
)
from torch import Tensor
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek
from transformers.models.glm import modeling_glm as glm
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama
from transformers.models.llama4 import modeling_llama4 as llama4
from transformers.models.phi3 import modeling_phi3 as phi3
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl

TRAINED = 32  # the length that all scalings of the suite start from


def parameters(spec: RopeSpec) -> dict[str, Any]:
    """`rope_parameters` of a configuration."""
    found: dict[str, Any]
    match spec.scaling:
        case Linear(factor):
            found = {"rope_type": "linear", "factor": factor}
        case Dynamic(factor):
            found = {"rope_type": "dynamic", "factor": factor}
        case Yarn(factor, trained, fast, slow, truncate, own):
            found = {
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": trained,
                "beta_fast": fast,
                "beta_slow": slow,
                "truncate": truncate,
                "attention_factor": own,
            }
        case Llama3(factor, trained, low, high):
            found = {
                "rope_type": "llama3",
                "factor": factor,
                "original_max_position_embeddings": trained,
                "low_freq_factor": low,
                "high_freq_factor": high,
            }
        case LongRope(short, long, factor, trained):
            found = {
                "rope_type": "longrope",
                "factor": factor,
                "original_max_position_embeddings": trained,
                "short_factor": list(short),
                "long_factor": list(long),
            }
        case Proportional(share, factor):
            found = {"rope_type": "proportional", "factor": factor, "partial_rotary_factor": share}
        case _:
            found = {"rope_type": "default"}
    found.setdefault("partial_rotary_factor", spec.rotary_dim / spec.head_dim)
    if spec.sections is not None:
        found["mrope_section"] = list(spec.sections)
    return {**found, "rope_theta": spec.base}


def config(kind: type[Any], spec: RopeSpec, **more: Any) -> Any:
    # Phi-3's factor is that of these two lengths; dynamic scaling begins at the first of them.
    longest = TRAINED * (spec.scaling.factor if isinstance(spec.scaling, LongRope) else 1)
    return kind(
        hidden_size=4 * spec.head_dim,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=spec.head_dim,
        max_position_embeddings=int(longest),
        rope_parameters=parameters(spec),
        pad_token_id=0,
        **more,
    )


class Embedded:
    """A module that gives cosines and sines, and the function that applies them."""

    def __init__(self, embedding: Callable[..., Any], apply: Callable[..., Any]) -> None:
        self.embedding, self.apply = embedding, apply

    def rotate(self, queries: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        turned: tuple[Tensor, Tensor] = self.apply(queries, keys, *self.embedding(keys, positions))
        return turned


def of_llama(spec: RopeSpec) -> Embedded:
    made = llama.LlamaRotaryEmbedding(config(transformers.LlamaConfig, spec))
    return Embedded(made, llama.apply_rotary_pos_emb)


class TestLlama(RopeSuite):
    capabilities = frozenset(
        {"unscaled", "linear", "yarn", "yarn-options", "llama3", "proportional"}
    )

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return of_llama


class TestLlamaWithADynamicBase(RopeSuite):
    capabilities = frozenset({"dynamic"})
    length_rule = "call"
    expected_failures = dict.fromkeys(
        ("test_earlier_calls_leave_no_trace",),
        "tests/findings/test_findings_transformers_dynamic_rope.py",
    )

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return of_llama


class TestPhi3(RopeSuite):
    """Turned in part; long or short factors by the furthest position of each call."""

    capabilities = frozenset({"unscaled", "longrope", "partial"})
    length_rule = "call"

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return lambda spec: Embedded(
            phi3.Phi3RotaryEmbedding(
                config(transformers.Phi3Config, spec, original_max_position_embeddings=TRAINED)
            ),
            phi3.apply_rotary_pos_emb,
        )


class TestGlm(RopeSuite):
    capabilities = frozenset({"unscaled", "neighbours", "partial"})

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return lambda spec: Embedded(
            glm.GlmRotaryEmbedding(config(transformers.GlmConfig, spec)), glm.apply_rotary_pos_emb
        )


class TestDeepseek(RopeSuite):
    """Pairs of neighbours become pairs of halves, in queries and keys alike."""

    capabilities = frozenset({"unscaled", "yarn", "neighbours"})
    output_pairing = "halves"

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return lambda spec: Embedded(
            deepseek.DeepseekV3RotaryEmbedding(
                config(transformers.DeepseekV3Config, spec, qk_rope_head_dim=spec.rotary_dim)
            ),
            deepseek.apply_rotary_pos_emb_interleave,
        )


class GptJ:
    """A table of sines and cosines; only the first dimensions are given to the rotation."""

    def __init__(self, spec: RopeSpec) -> None:
        self.spec = spec
        self.table = gptj.create_sinusoidal_positions(spec.length, spec.rotary_dim)

    def rotate(self, queries: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        sine, cosine = self.table[positions].chunk(2, dim=-1)
        turned = []
        for heads in (queries, keys):
            first, rest = heads.split(
                [self.spec.rotary_dim, heads.shape[-1] - self.spec.rotary_dim], -1
            )
            first = gptj.apply_rotary_pos_emb(
                first.transpose(1, 2), sine.to(heads.dtype), cosine.to(heads.dtype)
            )
            turned.append(torch.cat([first.transpose(1, 2), rest], dim=-1))
        return turned[0], turned[1]


class TestGptJ(RopeSuite):
    capabilities = frozenset({"neighbours", "partial"})
    bases = (10_000.0,)

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return GptJ


class Llama4:
    """Complex numbers, for heads [B, T, H, D]."""

    def __init__(self, spec: RopeSpec) -> None:
        self.embedding: Any = llama4.Llama4TextRotaryEmbedding(
            config(transformers.Llama4TextConfig, spec)
        )

    def rotate(self, queries: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        turned = llama4.apply_rotary_emb(
            queries.transpose(1, 2), keys.transpose(1, 2), self.embedding(keys, positions)
        )
        return turned[0].transpose(1, 2), turned[1].transpose(1, 2)


class TestLlama4(RopeSuite):
    capabilities = frozenset({"unscaled", "linear", "yarn", "llama3", "neighbours"})

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return Llama4


class TestQwen2Vl(RopeSuite):
    capabilities = frozenset({"unscaled", "yarn", "sections"})

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return lambda spec: Embedded(
            qwen2_vl.Qwen2VLRotaryEmbedding(with_sections(transformers.Qwen2VLTextConfig, spec)),
            qwen2_vl.apply_rotary_pos_emb,
        )


class TestQwen3Vl(RopeSuite):
    capabilities = frozenset({"unscaled", "interleaved-sections"})

    @pytest.fixture
    def make_rope(self) -> MakeRope:
        return lambda spec: Embedded(
            qwen3_vl.Qwen3VLTextRotaryEmbedding(
                with_sections(transformers.Qwen3VLTextConfig, spec)
            ),
            qwen3_vl.apply_rotary_pos_emb,
        )


def with_sections(kind: type[Any], spec: RopeSpec) -> Any:
    """Their positions have three axes in any case: without sections all pairs turn by the first."""
    made = config(kind, spec)
    made.rope_parameters.setdefault("mrope_section", [spec.rotary_dim // 2, 0, 0])
    return made
