"""Conformance of each MakeBatcher that infopt.toml names under ``batcher``."""

import pytest

from infopt_suites.batching.batcher import BatcherSuite
from infopt_suites.batching.protocol import MakeBatcher
from infopt_suites.configured import Configured


class TestBatcher(Configured, BatcherSuite):
    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        implementation: MakeBatcher = self.implementation
        return implementation
