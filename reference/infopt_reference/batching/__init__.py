"""Batching: many requests share a forward pass. Batchers on asyncio, and what they would cost."""

from ..decoding.stopping import FinishReason
from .batcher import Batcher, BatchFunction, DynamicBatcher, StaticBatcher
from .continuous import ContinuousBatcher
from .cost_model import CostModel, MeasuredStep
from .embedding import EmbeddingBatcher
from .errors import (
    BatcherRunningError,
    BatcherStoppedError,
    BatchFunctionError,
    BatchResultError,
    QueueFullError,
)
from .generation import ContinuousStatistics, GenerationResult
from .packed import Chunk, PackedModel
from .policy import BatchPolicy
from .request import Request, RequestState
from .sampling import Sampler, SamplingParameters
from .scheduler import (
    ScheduledRequest,
    ScheduledStep,
    Scheduler,
    SchedulerConfig,
    SchedulerStatistics,
)
from .simulator import STRATEGIES, SimulationResult, Strategy, simulate
from .statistics import BatcherStatistics
from .workload import TraceRequest, bursts, lognormal, poisson, trace

__all__ = [
    "STRATEGIES",
    "BatchFunction",
    "BatchFunctionError",
    "BatchPolicy",
    "BatchResultError",
    "Batcher",
    "BatcherRunningError",
    "BatcherStatistics",
    "BatcherStoppedError",
    "Chunk",
    "ContinuousBatcher",
    "ContinuousStatistics",
    "CostModel",
    "DynamicBatcher",
    "EmbeddingBatcher",
    "FinishReason",
    "GenerationResult",
    "MeasuredStep",
    "PackedModel",
    "QueueFullError",
    "Request",
    "RequestState",
    "Sampler",
    "SamplingParameters",
    "ScheduledRequest",
    "ScheduledStep",
    "Scheduler",
    "SchedulerConfig",
    "SchedulerStatistics",
    "SimulationResult",
    "StaticBatcher",
    "Strategy",
    "TraceRequest",
    "bursts",
    "lognormal",
    "poisson",
    "simulate",
    "trace",
]
