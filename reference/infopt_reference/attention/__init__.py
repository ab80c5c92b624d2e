"""Attention, KV caches and decoders: clear implementations of what inference engines do."""

from .attention import attend, attend_with_lse
from .cache import KVCache, QuantizedCache, SlidingCache, StaticCache
from .cached_attention import CachedAttention, LayerCache
from .decoder import Decoder, DecoderConfig
from .kv_size import KVShape
from .masks import causal_mask, token_positions, visible_keys
from .rope import Rope
from .tiles import attend_in_tiles, merge, with_sinks

__all__ = [
    "CachedAttention",
    "Decoder",
    "DecoderConfig",
    "KVCache",
    "KVShape",
    "LayerCache",
    "QuantizedCache",
    "Rope",
    "SlidingCache",
    "StaticCache",
    "attend",
    "attend_in_tiles",
    "attend_with_lse",
    "causal_mask",
    "merge",
    "token_positions",
    "visible_keys",
    "with_sinks",
]
