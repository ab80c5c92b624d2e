"""Suites for caches of answers: exact, semantic, and both before a model."""

from .layered import LayeredCacheSuite
from .protocol import (
    Answer,
    Cache,
    CacheSpec,
    LayeredCache,
    LayeredSpec,
    MakeLayeredCache,
    MakeResponseCache,
    MakeSemanticCache,
    Request,
    SemanticSpec,
)
from .redis_proxy import RedisProxy
from .response import ResponseCacheSuite
from .semantic import SemanticCacheSuite

__all__ = [
    "Answer",
    "Cache",
    "CacheSpec",
    "LayeredCache",
    "LayeredCacheSuite",
    "LayeredSpec",
    "MakeLayeredCache",
    "MakeResponseCache",
    "MakeSemanticCache",
    "RedisProxy",
    "Request",
    "ResponseCacheSuite",
    "SemanticCacheSuite",
    "SemanticSpec",
]
