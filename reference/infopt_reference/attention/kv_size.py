"""Bytes of a KV cache before there is one.

    bytes = 2 · layers · kv heads · head dim · tokens · rows · bytes a number

for keys and values of all tokens. A layer with a sliding window holds min(tokens, window − 1) of
them between steps, a preallocated cache its full length from the start, a paged one whole blocks.
Codes take bits / 8 bytes a number, and constants for each group.

Layers of one model may differ (`layer_shapes`): in their windows, their heads, and in the sizes of
their keys and values. Multi-query attention keeps one head. Latent attention (MLA) keeps what keys
and values are made from, or both for every head: its configuration leaves that to the
implementation. Layers that read another layer's keys keep nothing.

Contract. Exact for the caches of `cache`: `KVCache.nbytes` measures what these formulas predict.
Leaves out: what an allocator adds to a request, copies made while a cache grows, and states that
are no keys and values (linear attention, state spaces): for those there is no formula here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from ..quantization import QuantizationScheme


@dataclass(frozen=True)
class KVShape:
    """What one token leaves in a cache: ``layers`` × 2 × ``kv_heads`` vectors of ``head_dim``."""

    layers: int
    kv_heads: int
    head_dim: int

    def numbers(self, tokens: int, rows: int = 1) -> int:
        """Numbers that ``rows`` sequences of ``tokens`` tokens leave."""
        return 2 * self.layers * self.kv_heads * self.head_dim * tokens * rows

    def nbytes(self, tokens: int, rows: int = 1, *, bytes_per_number: int = 2) -> int:
        """Bytes of a growing cache; of a preallocated one, with its length for ``tokens``."""
        return self.numbers(tokens, rows) * bytes_per_number

    def sliding_nbytes(
        self, tokens: int, window: int, rows: int = 1, *, slack: int = 0, bytes_per_number: int = 2
    ) -> int:
        """Bytes of a cache that holds what a window of that size needs between two steps."""
        held = min(tokens, window - 1 + slack)
        return self.nbytes(held, rows, bytes_per_number=bytes_per_number)

    def paged_nbytes(
        self, lengths: list[int], block_size: int, *, bytes_per_number: int = 2
    ) -> int:
        """Bytes of the blocks that sequences of these lengths occupy, none of them shared."""
        blocks = sum(ceil(length / block_size) for length in lengths)
        return self.nbytes(blocks * block_size, bytes_per_number=bytes_per_number)

    def quantized_nbytes(self, tokens: int, scheme: QuantizationScheme, rows: int = 1) -> int:
        """Bytes of codes, scales and zero points, in groups along the head dimension."""
        return int(self.numbers(tokens, rows) * bytes_per_number(scheme, self.head_dim))


@dataclass(frozen=True)
class LayerShape:
    """What one token leaves in one layer: ``kv_heads`` keys and as many values.

    ``window`` is how many tokens the layer holds at most, None for all of them.

    Raises:
        ValueError: a size that is no whole number of at least 1.
    """

    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None = None

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if (name, size) == ("window", None):
                continue
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is {size!r}, and has to be a whole number of at least 1")

    def numbers(self, tokens: int, rows: int = 1) -> int:
        """Numbers that ``rows`` sequences of ``tokens`` tokens leave."""
        held = tokens if self.window is None else min(tokens, self.window)
        return self.kv_heads * (self.key_dim + self.value_dim) * held * rows


def kv_shape(config: Any) -> KVShape:
    """What a token leaves in the cache of a transformers configuration's layers.

    Raises:
        ValueError: the layers differ in their heads or sizes, or keep no keys and values.
    """
    if _is_latent(config.get_text_config(decoder=True)):
        raise ValueError("latent attention (MLA): what it keeps is up to the implementation")
    layers = layer_shapes(config)
    shapes = {(layer.kv_heads, layer.key_dim, layer.value_dim) for layer in layers if layer}
    if len(shapes) != 1 or len({size for _, *sizes in shapes for size in sizes}) != 1:
        raise ValueError(
            f"keys and values of (heads, key size, value size) {sorted(shapes)}; give a model "
            "whose layers keep keys and values of one size"
        )
    ((kv_heads, head_dim, _),) = shapes
    return KVShape(len(layers), kv_heads, head_dim)


def layer_shapes(config: Any, *, latents: bool = False) -> list[LayerShape | None]:
    """What each layer of a transformers configuration keeps; None for one that keeps nothing.

    ``latents`` says of latent attention that it keeps what keys and values are made from: a
    compressed vector and the rotated part of the keys, which all heads share.

    Raises:
        ValueError: a layer keeps something else than keys and values of each token.
    """
    text = config.get_text_config(decoder=True)
    kinds = layer_kinds(config)
    if strange := sorted(set(kinds) - {*_WINDOWS, "full_attention", *_NOTHING}):
        raise ValueError(f"layers of {', '.join(strange)} keep more than keys and values")
    each = getattr(text, "per_layer_config", None) or [text] * len(kinds)
    return [
        None if kind in _NOTHING else _layer_shape(layer, kind, latents)
        for kind, layer in zip(kinds, each, strict=True)
    ]


_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
_NOTHING = {"dummy", "moe", "mlp"}  # transformers' names of layers without a cache of their own


def _is_latent(layer: Any) -> bool:
    return bool(getattr(layer, "kv_lora_rank", None) and getattr(layer, "qk_nope_head_dim", None))


def _layer_shape(layer: Any, kind: str, latents: bool) -> LayerShape:
    window = getattr(layer, _WINDOWS[kind]) if kind in _WINDOWS else None
    heads = layer.num_attention_heads
    if _is_latent(layer) and latents:
        return LayerShape(1, layer.kv_lora_rank, layer.qk_rope_head_dim, window)
    if _is_latent(layer):
        key_dim = layer.qk_nope_head_dim + layer.qk_rope_head_dim
        return LayerShape(heads, key_dim, layer.v_head_dim, window)
    head_dim = getattr(layer, "head_dim", None) or layer.hidden_size // heads
    value_dim = getattr(layer, "v_head_dim", None) or head_dim
    return LayerShape(_kv_heads(layer, heads), head_dim, value_dim, window)


def _kv_heads(layer: Any, heads: int) -> int:
    # Falcon's newer checkpoints set multi_query too, and mean groups by it.
    if getattr(layer, "new_decoder_architecture", False):
        return int(layer.num_kv_heads)
    if getattr(layer, "multi_query", False):
        return 1
    return int(getattr(layer, "num_key_value_heads", None) or heads)


def layer_kinds(config: Any) -> list[str]:
    """What each layer of a transformers configuration attends to: "full_attention", …

    A layer that reads the keys of another one is a "dummy", as transformers calls it. Older
    configurations list no kinds: all layers slide when there is a window, unless told not to.
    """
    text = config.get_text_config(decoder=True)
    kinds = getattr(text, "layer_types", None)
    if not kinds:
        slides = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
        kinds = ["sliding_attention" if slides else "full_attention"] * text.num_hidden_layers
    shared = getattr(text, "kv_sharing_modes", None) or [None] * len(kinds)
    modes = zip(kinds, shared, strict=True)
    return ["dummy" if mode == "reuse" else str(kind) for kind, mode in modes]


def bytes_per_number(scheme: QuantizationScheme, head_dim: int) -> Fraction:
    """What a number costs as a code, its share of its group's constants included.

    Raises:
        ValueError: the scheme has no groups.
    """
    if scheme.group_size is None:
        raise ValueError(f"the scheme is {scheme}; a quantized cache has groups")
    groups = ceil(head_dim / scheme.group_size)
    constants = scheme.scale_dtype.itemsize + (0 if scheme.symmetric else 1)
    code = Fraction(scheme.stored_bits, 8)
    return code + Fraction(groups * constants, head_dim)
