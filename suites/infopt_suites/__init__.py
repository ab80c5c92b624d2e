"""Conformance suites for inference components, and the release gates of ``pytest --infopt``.

`Suite`, `requires` and `for_all` are what a suite is made of; the others are suites.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import (
        AttentionSuite,
        DecoderSuite,
        KVCacheSuite,
        KVTransferSuite,
        PagedKVSuite,
        PrefixCacheSuite,
        RopeSuite,
    )
    from .base import Suite, requires
    from .batching import (
        BatcherSuite,
        ContinuousBatchingSuite,
        EmbedderSuite,
        EmbeddingBatcherSuite,
        SchedulerSuite,
    )
    from .caching import LayeredCacheSuite, ResponseCacheSuite, SemanticCacheSuite
    from .decoding import SpeculativeSuite
    from .distillation import DistillationLossSuite, TeacherDataSuite
    from .measurement import LatencyMeterSuite, MemoryMeterSuite
    from .properties import for_all
    from .pruning import PruningSuite
    from .quantization import (
        ActivationQuantizerSuite,
        CalibratedQuantizerSuite,
        CodebookSuite,
        FakeQuantSuite,
        ModelQuantizerSuite,
        PackingSuite,
        QuantizedLinearSuite,
        QuantizerSuite,
        SmoothingSuite,
    )

__all__ = [
    "ActivationQuantizerSuite",
    "AttentionSuite",
    "BatcherSuite",
    "CalibratedQuantizerSuite",
    "CodebookSuite",
    "ContinuousBatchingSuite",
    "DecoderSuite",
    "DistillationLossSuite",
    "EmbedderSuite",
    "EmbeddingBatcherSuite",
    "FakeQuantSuite",
    "KVCacheSuite",
    "KVTransferSuite",
    "LatencyMeterSuite",
    "LayeredCacheSuite",
    "MemoryMeterSuite",
    "ModelQuantizerSuite",
    "PackingSuite",
    "PagedKVSuite",
    "PrefixCacheSuite",
    "PruningSuite",
    "QuantizedLinearSuite",
    "QuantizerSuite",
    "ResponseCacheSuite",
    "RopeSuite",
    "SchedulerSuite",
    "SemanticCacheSuite",
    "SmoothingSuite",
    "SpeculativeSuite",
    "Suite",
    "TeacherDataSuite",
    "for_all",
    "requires",
]

_PARTS = {"Suite": "base", "requires": "base", "for_all": "properties"}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: suites need torch, which gates must keep out.

    Our own entry points say where each suite is.
    """
    if name in _PARTS:
        return getattr(import_module(f"{__name__}.{_PARTS[name]}"), name)
    for entry in entry_points(group="infopt.suites"):
        if entry.attr == name and entry.module.startswith(f"{__name__}."):
            return entry.load()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
