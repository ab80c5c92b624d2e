"""Suites for batchers, and for the scheduler and the loop of continuous batching."""

from .batcher import BatcherSuite
from .continuous import ContinuousBatchingSuite
from .continuous_protocol import (
    ContinuousBatcher,
    ContinuousLimits,
    GenerationParameters,
    MakeContinuousBatcher,
)
from .protocol import Batcher, BatchPolicy, MakeBatcher
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
    "GenerationParameters",
    "MakeBatcher",
    "MakeContinuousBatcher",
    "MakeScheduler",
    "NewRequest",
    "PlannedStep",
    "Scheduler",
    "SchedulerLimits",
    "SchedulerSuite",
]
