"""Conformance of each MakeContinuousBatcher that infopt.toml names under ``continuous_batcher``."""

import pytest

from infopt_suites.batching.continuous import ContinuousBatchingSuite
from infopt_suites.batching.continuous_protocol import MakeContinuousBatcher
from infopt_suites.configured import Configured


class TestContinuousBatcher(Configured, ContinuousBatchingSuite):
    @pytest.fixture
    def make_continuous_batcher(self) -> MakeContinuousBatcher:
        implementation: MakeContinuousBatcher = self.implementation
        return implementation
