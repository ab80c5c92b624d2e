"""Suites for batchers, and for the scheduler and the loop of continuous batching."""

from .scheduler import SchedulerSuite
from .scheduler_protocol import (
    MakeScheduler,
    NewRequest,
    PlannedStep,
    Scheduler,
    SchedulerLimits,
)

__all__ = [
    "MakeScheduler",
    "NewRequest",
    "PlannedStep",
    "Scheduler",
    "SchedulerLimits",
    "SchedulerSuite",
]
