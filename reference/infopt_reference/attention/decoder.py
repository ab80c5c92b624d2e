"""A small decoder of the Llama kind, which decodes through any of the caches.

    x = embed(ids);  for each layer:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = head(norm(x))
    norm(x) = x / √(mean x² + ε) · weight        mlp(x) = down(silu(gate(x)) · up(x))

Contract. As `CachedAttention`: the logits of a sequence do not depend on how it was cut into calls,
nor on the rows and the padding beside it. `Decoder.from_transformers` shares a model's weights and
gives its logits. In low precision, norms and attention are computed in float32.
Leaves out: mixtures of experts, soft-capped logits, rope scaling but linear, tensor parallelism.
Sources: Touvron et al. 2023, "LLaMA", section 2.2; Zhang & Sennrich 2019 (RMSNorm); Shazeer 2020
(gated units).
Legend: B batch, T new tokens, N slots so far, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from .cached_attention import CachedAttention, LayerCache
from .kv_size import kv_shape, layer_kinds
from .masks import token_positions
from .rope import Rope
from .rope_scaling import LinearScaling

ARCHITECTURES = ("llama", "mistral", "qwen2")  # those of transformers that are no more than this


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder; fields as in `CachedAttention`. ``tied``: the head is the embedding."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    rope: Rope
    window: int | None = None
    bias: bool = False
    norm_eps: float = 1e-5
    tied: bool = True

    @classmethod
    def from_transformers(cls, config: Any) -> Self:
        """The shape of a configuration of one of `ARCHITECTURES`.

        Raises:
            ValueError: the configuration asks for something that this decoder has not.
        """
        if config.model_type not in ARCHITECTURES:
            raise ValueError(
                f"the architecture is {config.model_type!r}; this decoder is one of {ARCHITECTURES}"
            )
        rope = config.rope_parameters
        refusals = {
            f"activation {config.hidden_act!r}": config.hidden_act != "silu",
            f"rope {rope['rope_type']!r}": rope["rope_type"] not in ("default", "linear"),
            "bias of the MLP": getattr(config, "mlp_bias", False),
            "layers with windows of their own": len(set(layer_kinds(config))) > 1,
            "bias of the attention's output": config.model_type == "llama"
            and config.attention_bias,
        }
        unknown = [name for name, refused in refusals.items() if refused]
        if unknown:
            raise ValueError(
                f"the decoder has no {' and no '.join(unknown)}; use the transformers model itself "
                f"(`transformers_cache` decodes it through the caches)"
            )
        shape = kv_shape(config)
        return cls(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            layers=shape.layers,
            heads=config.num_attention_heads,
            kv_heads=shape.kv_heads,
            rope=Rope(shape.head_dim, rope["rope_theta"], LinearScaling(rope.get("factor", 1.0))),
            window=config.sliding_window if "sliding_attention" in layer_kinds(config) else None,
            bias=config.model_type == "qwen2",
            norm_eps=config.rms_norm_eps,
            tied=config.tie_word_embeddings,
        )


class RMSNorm(nn.Module):
    """x / √(mean x² + ε) · weight over the last dimension, normalised in float32 at the least."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        root = (wide.square().mean(dim=-1, keepdim=True) + self.eps).rsqrt()
        return self.weight * (wide * root).to(x.dtype)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, size: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, inner, bias=False)
        self.up_proj = nn.Linear(size, inner, bias=False)
        self.down_proj = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return output


class DecoderLayer(nn.Module):
    """Attention and MLP, each added to its input. Names of modules as in transformers' Llama."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = CachedAttention(
            config.hidden_size,
            config.heads,
            config.kv_heads,
            config.rope.head_dim,
            rope=config.rope,
            window=config.window,
            bias=config.bias,
            layer=layer,
        )
        self.mlp = GatedMLP(config.hidden_size, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, x: Tensor, cache: LayerCache | None, positions: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cache, positions)
        output: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return output


class Decoder(nn.Module):
    """Token ids to logits."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tied:
            self.lm_head.weight = self.embed_tokens.weight

    @classmethod
    def from_transformers(cls, model: Any) -> Self:
        """A decoder for inference that shares the weights of a model of one of `ARCHITECTURES`.

        Raises:
            ValueError: the model has something that this decoder has not.
        """
        config = DecoderConfig.from_transformers(model.config)
        with torch.device("meta"):  # no memory: the weights are the model's own
            decoder = cls(config)
        # Detached: to assign the model's own parameters would make them require gradients.
        weights = {name.removeprefix("model."): x.detach() for name, x in model.named_parameters()}
        weights.setdefault("lm_head.weight", weights["embed_tokens.weight"])
        decoder.load_state_dict(weights, assign=True)
        if config.tied:
            decoder.lm_head.weight = decoder.embed_tokens.weight
        return decoder.requires_grad_(False).eval()

    def forward(
        self, ids: Tensor, cache: LayerCache | None = None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """Logits [B, T, V] of the tokens ``ids`` [B, T], which follow those in the cache.

        ``attention_mask`` [B, N] says which of all slots so far hold a token, the new ones included
        (rows are padded on the left); None: all.
        """
        positions = None if attention_mask is None else token_positions(attention_mask)
        x = self.embed_tokens(ids)  # [B, T, hidden]
        for layer in self.layers:
            x = layer(x, cache, positions)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits
