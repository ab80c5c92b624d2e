"""Empty KV caches of a model's configuration, by format: `engines.kv_cache_formats` names them."""

from __future__ import annotations

import math
from typing import Any

from infopt_reference.attention import QuantizedCache
from infopt_reference.attention.kv_size import kv_shape
from infopt_reference.attention.transformers_cache import TransformersCache
from infopt_reference.quantization import Granularity, QuantizationScheme
from transformers import QuantizedCache as LibraryQuantizedCache

__all__ = [
    "SCHEMES",
    "fp8",
    "hqq_int4",
    "hqq_int8",
    "int4",
    "int8",
    "quanto_int2",
    "quanto_int4",
    "transformers_fp8",
]

_GROUP = 64  # transformers' default
_WHOLE_HEAD = 256  # at least the head dimension of usual models: a scale for each token and head
SCHEMES = {
    "int8": QuantizationScheme(8, granularity=Granularity.GROUP, group_size=_WHOLE_HEAD),
    "int4": QuantizationScheme(4, symmetric=False, granularity=Granularity.GROUP, group_size=32),
    "fp8": QuantizationScheme(
        8, granularity=Granularity.GROUP, group_size=_WHOLE_HEAD, codebook="e4m3fn"
    ),
}


def _ours(config: Any, name: str) -> Any:
    return TransformersCache.of(config, lambda: QuantizedCache(SCHEMES[name]))


def int8(config: Any) -> Any:
    """The reference's cache in int8."""
    return _ours(config, "int8")


def int4(config: Any) -> Any:
    """The reference's cache in int4."""
    return _ours(config, "int4")


def fp8(config: Any) -> Any:
    """The reference's cache in E4M3FN."""
    return _ours(config, "fp8")


def transformers_fp8(config: Any) -> Any:
    """transformers' own cache in E4M3FN."""
    return LibraryQuantizedCache("fp8", config)


def quanto_int4(config: Any) -> Any:
    """transformers' own cache in quanto's int4."""
    return _in_library("quanto", config, 4)


def quanto_int2(config: Any) -> Any:
    """transformers' own cache in quanto's int2."""
    return _in_library("quanto", config, 2)


def hqq_int8(config: Any) -> Any:
    """transformers' own cache in hqq's int8."""
    return _in_library("hqq", config, 8)


def hqq_int4(config: Any) -> Any:
    """transformers' own cache in hqq's int4."""
    return _in_library("hqq", config, 4)


def _in_library(backend: str, config: Any, bits: int) -> Any:
    # Groups divide what a single token leaves of a layer's keys.
    shape = kv_shape(config)
    group = math.gcd(_GROUP, shape.kv_heads * shape.head_dim)
    return LibraryQuantizedCache(backend, config, nbits=bits, q_group_size=group)
