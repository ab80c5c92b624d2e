"""BatcherSuite accepts the reference batchers, with all that they offer."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from infopt_reference import batching
from infopt_suites.batching import BatcherSuite, BatchPolicy, MakeBatcher
from infopt_suites.batching.protocol import BatchFunction


def make_dynamic(batch_function: BatchFunction, policy: BatchPolicy) -> batching.DynamicBatcher:
    return batching.DynamicBatcher(batch_function, batching.BatchPolicy(**asdict(policy)))


class TestDynamicBatcher(BatcherSuite):
    capabilities = frozenset(BatcherSuite.offers)

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        return make_dynamic
