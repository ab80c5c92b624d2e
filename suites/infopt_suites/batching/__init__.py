"""Suites for batchers, and for the scheduler and the loop of continuous batching."""

from .batcher import BatcherSuite
from .continuous import ContinuousBatchingSuite
from .continuous_protocol import (
    ContinuousBatcher,
    ContinuousLimits,
    GenerationParameters,
    MakeContinuousBatcher,
)
from .embedder import EmbedderSuite, MakeEmbedder
from .embedding_batcher import EmbeddingBatcherSuite
from .protocol import Batcher, BatchPolicy, EmbeddingBatcher, MakeBatcher, MakeEmbeddingBatcher
from .scheduler import SchedulerSuite
from .scheduler_protocol import (
    MakeScheduler,
    NewRequest,
    PlannedStep,
    Scheduler,
    SchedulerLimits,
)

__all__ = [
    "BatchPolicy",
    "Batcher",
    "BatcherSuite",
    "ContinuousBatcher",
    "ContinuousBatchingSuite",
    "ContinuousLimits",
    "EmbedderSuite",
    "EmbeddingBatcher",
    "EmbeddingBatcherSuite",
    "GenerationParameters",
    "MakeBatcher",
    "MakeContinuousBatcher",
    "MakeEmbedder",
    "MakeEmbeddingBatcher",
    "MakeScheduler",
    "NewRequest",
    "PlannedStep",
    "Scheduler",
    "SchedulerLimits",
    "SchedulerSuite",
]
