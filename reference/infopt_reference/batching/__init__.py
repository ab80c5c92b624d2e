"""Batching: many requests share a forward pass. Batchers on asyncio, and what they would cost."""

from .batcher import Batcher, BatchFunction, DynamicBatcher, StaticBatcher
from .embedding import EmbeddingBatcher
from .errors import (
    BatcherRunningError,
    BatcherStoppedError,
    BatchFunctionError,
    BatchResultError,
    QueueFullError,
)
from .policy import BatchPolicy
from .statistics import BatcherStatistics

__all__ = [
    "BatchFunction",
    "BatchFunctionError",
    "BatchPolicy",
    "BatchResultError",
    "Batcher",
    "BatcherRunningError",
    "BatcherStatistics",
    "BatcherStoppedError",
    "DynamicBatcher",
    "EmbeddingBatcher",
    "QueueFullError",
    "StaticBatcher",
]
