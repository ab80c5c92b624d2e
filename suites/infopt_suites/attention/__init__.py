"""Suites for attention and what keeps its keys and values."""

from .attention import AttentionSuite
from .cache_protocol import CacheGeometry, KVCache, MakeCache
from .decoder import DecoderSuite
from .decoder_protocol import Decoder, MakeDecoder, TransformersDecoder
from .kv_cache import KVCacheSuite
from .paged import PagedKVSuite
from .paged_protocol import MakePagedKV, PagedGeometry, PagedKV
from .prefix_cache import PrefixCacheSuite
from .prefix_protocol import MakePrefixCache, PrefixCache, PrefixGeometry
from .protocol import Attention, AttentionSpec, MakeAttention

__all__ = [
    "Attention",
    "AttentionSpec",
    "AttentionSuite",
    "CacheGeometry",
    "Decoder",
    "DecoderSuite",
    "KVCache",
    "KVCacheSuite",
    "MakeAttention",
    "MakeCache",
    "MakeDecoder",
    "MakePagedKV",
    "MakePrefixCache",
    "PagedGeometry",
    "PagedKV",
    "PagedKVSuite",
    "PrefixCache",
    "PrefixCacheSuite",
    "PrefixGeometry",
    "TransformersDecoder",
]
