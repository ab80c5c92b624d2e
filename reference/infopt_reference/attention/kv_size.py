"""Bytes of a KV cache before there is one.

    bytes = 2 · layers · kv heads · head dim · tokens · rows · bytes a number

for keys and values of all tokens. A layer with a sliding window holds min(tokens, window − 1) of
them between steps, a preallocated cache its full length from the start, a paged one whole blocks.
Codes take bits / 8 bytes a number, and constants for each group.

Contract. Exact for the caches of `cache`: `KVCache.nbytes` measures what these formulas predict.
Leaves out: what an allocator adds to a request, and copies made while a cache grows.
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


def kv_shape(config: Any) -> KVShape:
    """What a token leaves in the cache of a transformers configuration's layers."""
    text = config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    return KVShape(
        layers=len(layer_kinds(config)),
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
    )


def layer_kinds(config: Any) -> list[str]:
    """What each layer of a transformers configuration attends to: "full_attention", …

    Older configurations list no kinds: all layers slide when there is a window, unless told not to.
    """
    text = config.get_text_config(decoder=True)
    if kinds := getattr(text, "layer_types", None):
        return list(kinds)
    slides = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return ["sliding_attention" if slides else "full_attention"] * text.num_hidden_layers


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
