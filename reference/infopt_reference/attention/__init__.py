"""Attention, KV caches and decoders: clear implementations of what inference engines do."""

from .attention import attend, attend_with_lse
from .block_allocator import BlockAllocator, BlockCopy
from .block_pool import BlockPool, OutOfBlocksError
from .cache import KVCache, QuantizedCache, SlidingCache, StaticCache
from .cached_attention import CachedAttention, LayerCache
from .decoder import Decoder, DecoderConfig
from .kv_size import KVShape
from .kv_transfer import ChunkStore, FinishedTransfers, KVConnector
from .masks import causal_mask, token_positions, visible_keys
from .paged import PagedKVCache, PagedRows
from .prefix_cache import PrefixCache, PrefixMatch, block_hashes
from .rope import Rope, Sections
from .rope_scaling import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    Unscaled,
    YarnScaling,
)
from .tiles import attend_in_tiles, merge, with_sinks

__all__ = [
    "BlockAllocator",
    "BlockCopy",
    "BlockPool",
    "CachedAttention",
    "ChunkStore",
    "Decoder",
    "DecoderConfig",
    "DynamicScaling",
    "FinishedTransfers",
    "KVCache",
    "KVConnector",
    "KVShape",
    "LayerCache",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "OutOfBlocksError",
    "PagedKVCache",
    "PagedRows",
    "PrefixCache",
    "PrefixMatch",
    "ProportionalScaling",
    "QuantizedCache",
    "Rope",
    "Sections",
    "SlidingCache",
    "StaticCache",
    "Unscaled",
    "YarnScaling",
    "attend",
    "attend_in_tiles",
    "attend_with_lse",
    "block_hashes",
    "causal_mask",
    "merge",
    "token_positions",
    "visible_keys",
    "with_sinks",
]
