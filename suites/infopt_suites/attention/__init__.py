"""Suites for attention and what keeps its keys and values."""

from .attention import AttentionSuite
from .cache_protocol import CacheGeometry, KVCache, MakeCache
from .decoder import DecoderSuite
from .decoder_protocol import Decoder, MakeDecoder, TransformersDecoder
from .kv_cache import KVCacheSuite
from .kv_transfer import KVTransferSuite
from .paged import PagedKVSuite
from .paged_protocol import MakePagedKV, PagedGeometry, PagedKV
from .prefix_cache import PrefixCacheSuite
from .prefix_protocol import MakePrefixCache, PrefixCache, PrefixGeometry
from .protocol import Attention, AttentionSpec, MakeAttention
from .rope import RopeSuite
from .rope_protocol import MakeRope, Rope, RopeSpec
from .transfer_protocol import KVConnector, KVLayout, MakeKVConnectors, Transfers, TransferSpec

__all__ = [
    "Attention",
    "AttentionSpec",
    "AttentionSuite",
    "CacheGeometry",
    "Decoder",
    "DecoderSuite",
    "KVCache",
    "KVCacheSuite",
    "KVConnector",
    "KVLayout",
    "KVTransferSuite",
    "MakeAttention",
    "MakeCache",
    "MakeDecoder",
    "MakeKVConnectors",
    "MakePagedKV",
    "MakePrefixCache",
    "MakeRope",
    "PagedGeometry",
    "PagedKV",
    "PagedKVSuite",
    "PrefixCache",
    "PrefixCacheSuite",
    "PrefixGeometry",
    "Rope",
    "RopeSpec",
    "RopeSuite",
    "TransferSpec",
    "Transfers",
    "TransformersDecoder",
]
