"""Conformance suites for inference components, and the release gates of ``pytest --infopt``."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import (
        AttentionSuite,
        DecoderSuite,
        KVCacheSuite,
        PagedKVSuite,
        PrefixCacheSuite,
    )
    from .batching import (
        BatcherSuite,
        ContinuousBatchingSuite,
        EmbedderSuite,
        EmbeddingBatcherSuite,
        SchedulerSuite,
    )
    from .caching import LayeredCacheSuite, ResponseCacheSuite, SemanticCacheSuite
    from .pruning import PruningSuite
    from .quantization import (
        CalibratedQuantizerSuite,
        CodebookSuite,
        FakeQuantSuite,
        PackingSuite,
        QuantizerSuite,
        SmoothingSuite,
    )

# Imported when asked for: suites need torch, which gates must not bring into pytest's process.
_MODULES = {
    "AttentionSuite": ".attention",
    "BatcherSuite": ".batching",
    "CalibratedQuantizerSuite": ".quantization",
    "CodebookSuite": ".quantization",
    "ContinuousBatchingSuite": ".batching",
    "DecoderSuite": ".attention",
    "EmbedderSuite": ".batching",
    "EmbeddingBatcherSuite": ".batching",
    "FakeQuantSuite": ".quantization",
    "KVCacheSuite": ".attention",
    "LayeredCacheSuite": ".caching",
    "PackingSuite": ".quantization",
    "PagedKVSuite": ".attention",
    "PrefixCacheSuite": ".attention",
    "PruningSuite": ".pruning",
    "QuantizerSuite": ".quantization",
    "ResponseCacheSuite": ".caching",
    "SchedulerSuite": ".batching",
    "SemanticCacheSuite": ".caching",
    "SmoothingSuite": ".quantization",
}

__all__ = [
    "AttentionSuite",
    "BatcherSuite",
    "CalibratedQuantizerSuite",
    "CodebookSuite",
    "ContinuousBatchingSuite",
    "DecoderSuite",
    "EmbedderSuite",
    "EmbeddingBatcherSuite",
    "FakeQuantSuite",
    "KVCacheSuite",
    "LayeredCacheSuite",
    "PackingSuite",
    "PagedKVSuite",
    "PrefixCacheSuite",
    "PruningSuite",
    "QuantizerSuite",
    "ResponseCacheSuite",
    "SchedulerSuite",
    "SemanticCacheSuite",
    "SmoothingSuite",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
