"""Tiny causal models of transformers that the properties of models distil, and what they saw."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

VOCABULARY = 12


def make_model(seed: int, dropout: float = 0.0, *, absolute: bool = False) -> nn.Module:
    """A Llama of one layer and random weights, float32, in eval mode; no token ends a text.

    With ``absolute`` a GPT-2, whose positions are not those of distances alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = _gpt2(dropout) if absolute else _llama(dropout)
    return model.eval()


_SIZE = {
    "vocab_size": VOCABULARY,
    "initializer_range": 0.5,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}


def _llama(dropout: float) -> nn.Module:
    config = LlamaConfig(
        **_SIZE,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        attention_dropout=dropout,
    )
    return LlamaForCausalLM(config)  # type: ignore[no-any-return]


def _gpt2(dropout: float) -> nn.Module:
    config = GPT2Config(
        **_SIZE,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=64,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    return GPT2LMHeadModel(config)  # type: ignore[no-any-return]


def make_counter() -> nn.Module:
    """A model that says t + 1 after t, and means it: its samples are known."""
    model: Any = make_model(0)
    embedding = torch.eye(VOCABULARY, 16)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(embedding)
        model.lm_head.weight.copy_(100.0 * embedding.roll(1, dims=0))
    return model  # type: ignore[no-any-return]


def copied(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)


def make_batch(seed: int, rows: int = 3, tokens: int = 9) -> dict[str, Tensor]:
    """Rows of different lengths, padded right; a prompt of three tokens does not count."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, tokens - row :] = 0
    ids = ids * mask
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def make_prompts(seed: int, rows: int = 3, tokens: int = 4) -> dict[str, Tensor]:
    """Prompts of different lengths, padded left."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, : min(row, tokens - 1)] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@dataclass
class Seen:
    """What a model was called with, and how it stood, call by call."""

    ids: list[Tensor] = field(default_factory=list)
    masks: list[Tensor | None] = field(default_factory=list)
    training: list[bool] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)

    def rows(self) -> list[list[int]]:
        """Each row that was seen, without padding."""
        return [
            ids[mask.bool()].tolist() if mask is not None else ids.tolist()
            for batch, masks in zip(self.ids, self.masks, strict=True)
            for ids, mask in zip(
                batch, masks if masks is not None else [None] * len(batch), strict=True
            )
        ]


def watch(model: nn.Module, *, gradients: bool = False) -> Seen:
    """Record the model's calls from now on; with ``gradients``, its logits keep theirs."""
    seen = Seen()

    def before(called: nn.Module, arguments: Sequence[Any], given: Mapping[str, Any]) -> None:
        ids = given.get("input_ids", arguments[0] if arguments else None)
        mask = given.get("attention_mask")
        seen.ids.append(ids.detach().clone())
        seen.masks.append(None if mask is None else mask.detach().clone())
        seen.training.append(any(module.training for module in called.modules()))

    def after(_: nn.Module, __: Any, ___: Any, output: Any) -> None:
        logits = output["logits"] if isinstance(output, Mapping) else output[0]
        if gradients and logits.requires_grad:
            logits.retain_grad()
        seen.logits.append(logits)

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after, with_kwargs=True)
    return seen


def fingerprint(model: nn.Module) -> dict[str, Tensor]:
    """Every weight and buffer, by name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach().clone() for name, value in named}
