"""The parts of a transformers decoder that faults are planted into, whatever the family.

Legend: B rows, T positions, H heads, D width of a head.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any

import torch
from tiny_models import cache_in
from torch import Tensor, nn


class NotApplicableError(Exception):
    """The model lacks the part that a fault is planted into."""


class Parts:
    """Names and sizes of the parts of a causal language model."""

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.body: nn.Module = model.base_model
        self.config = model.config.get_text_config(decoder=True)

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    @cached_property
    def layer_names(self) -> list[str]:
        """Names of the decoder's layers in their order."""
        found = [name for name in self.modules if re.search(r"\.(layers|h|blocks)\.\d+$", name)]
        return self.needed("decoder layers", found)

    @property
    def layers(self) -> range:
        return range(len(self.layer_names))

    def inside(self, layer: int, pattern: str) -> list[str]:
        """Modules of a layer whose names, from the layer on, match a pattern."""
        prefix = self.layer_names[layer] + "."
        return [
            name
            for name in self.modules
            if name.startswith(prefix) and re.fullmatch(pattern, name.removeprefix(prefix))
        ]

    def of_layer(self, layer: int, pattern: str) -> str:
        """The one module of a layer that matches; NotApplicableError where there is none."""
        return self.needed(pattern, self.inside(layer, pattern))[0]

    def layers_with(self, pattern: str) -> list[int]:
        """Layers that have a module that matches; NotApplicableError where none has."""
        return self.needed(pattern, [i for i in self.layers if self.inside(i, pattern)])

    @cached_property
    def linears(self) -> list[str]:
        """Matrix products of the layers that are modules of their own."""
        found = [
            name
            for name, module in self.modules.items()
            if hasattr(module, "in_features") and any(name.startswith(p) for p in self._prefixes)
        ]
        return self.needed("linear layers", found)

    @cached_property
    def _prefixes(self) -> list[str]:
        return [name + "." for name in self.layer_names]

    @cached_property
    def norms(self) -> list[str]:
        """Norms of the whole width, with a weight."""
        found = [
            name
            for name, module in self.modules.items()
            if type(module).__name__.endswith("Norm") and name.rpartition(".")[2].find("_norm") < 1
            if getattr(module, "weight", None) is not None
        ]
        return self.needed("norms", [n for n in found if not n.endswith(("q_norm", "k_norm"))])

    @cached_property
    def rope(self) -> tuple[str, nn.Module]:
        """The rotary embedding that all layers share."""
        found = [(n, m) for n, m in self.modules.items() if n.endswith("rotary_emb")]
        return self.needed("rotary embedding", found)[0]

    @property
    def head(self) -> nn.Module:
        return self.needed("output head", [self.model.get_output_embeddings()])[0]

    @property
    def head_name(self) -> str:
        return next(name for name, module in self.modules.items() if module is self.head)

    @property
    def embedding_name(self) -> str:
        embedding = self.model.get_input_embeddings()
        return next(name for name, module in self.modules.items() if module is embedding)

    @property
    def embedding(self) -> Tensor:
        weight: Tensor = self.model.get_input_embeddings().weight.data
        return weight

    @property
    def vocabulary(self) -> int:
        return int(self.config.vocab_size)

    @property
    def heads(self) -> int:
        return int(self.config.num_attention_heads)

    @property
    def kv_heads(self) -> int:
        count = getattr(self.config, "num_key_value_heads", None)
        return int(count or self.heads)

    @property
    def end_token(self) -> int:
        """The id that ends a text."""
        for config in (self.model.generation_config, self.config):
            known = getattr(config, "eos_token_id", None)
            if known is not None:
                return int(known[0] if isinstance(known, list) else known)
        raise NotApplicableError("no end token")

    def needed(self, what: str, found: list[Any]) -> list[Any]:
        """What was found; NotApplicableError where that is nothing."""
        found = [each for each in found if each is not None]
        if not found:
            raise NotApplicableError(f"{type(self.model).__name__} has no {what}")
        return found


def past_length(kwargs: dict[str, Any], layer: int = 0) -> int:
    """Tokens in the cache that a body's forward is given, or the forward of a layer, before which
    earlier layers have added theirs."""
    cache = cache_in(kwargs)
    return 0 if cache is None else int(cache.get_seq_length(layer))


def input_shape(kwargs: dict[str, Any]) -> tuple[int, int]:
    """Rows and new positions of a body's forward."""
    ids = kwargs.get("input_ids")
    shape = kwargs["inputs_embeds"].shape if ids is None else ids.shape
    return int(shape[0]), int(shape[1])


def positions_of(kwargs: dict[str, Any]) -> Tensor:
    """Positions [B or 1, T] of the new tokens of a body's forward."""
    known = kwargs.get("position_ids")
    if known is not None:
        return known  # type: ignore[no-any-return]
    past, (_, count) = past_length(kwargs), input_shape(kwargs)
    source = kwargs.get("input_ids")
    device = (kwargs["inputs_embeds"] if source is None else source).device
    return torch.arange(past, past + count, device=device)[None]
