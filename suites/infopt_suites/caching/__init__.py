"""Suites for caches of answers: exact, semantic, and both before a model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from .layered import LayeredCacheSuite
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

_SUITES = {
    "LayeredCacheSuite": "layered",
    "ResponseCacheSuite": "response",
    "SemanticCacheSuite": "semantic",
}


def __getattr__(name: str) -> Any:
    """Import a suite when it is asked for: caches in other processes need the protocol alone."""
    if name in _SUITES:
        return getattr(import_module(f"{__name__}.{_SUITES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
