"""Conformance of each MakeScheduler that infopt.toml names under ``scheduler``."""

import pytest

from infopt_suites.batching.scheduler import SchedulerSuite
from infopt_suites.batching.scheduler_protocol import MakeScheduler
from infopt_suites.configured import Configured


class TestScheduler(Configured, SchedulerSuite):
    @pytest.fixture
    def make_scheduler(self) -> MakeScheduler:
        implementation: MakeScheduler = self.implementation
        return implementation
