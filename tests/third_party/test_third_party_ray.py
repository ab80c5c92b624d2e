"""ray.serve.batch through BatcherSuite, on virtual time; no cluster has to run for it."""

from __future__ import annotations

from typing import Any

import pytest
import ray_serve
from infopt_suites.batching import BatcherSuite, BatchPolicy, MakeBatcher
from infopt_suites.batching.protocol import BatchFunction

serve = pytest.importorskip("ray.serve", exc_type=ImportError)


class OfRay:
    """A function under ``serve.batch``, which has neither start nor stop."""

    def __init__(self, batch_function: BatchFunction, policy: BatchPolicy) -> None:
        async def call(items: list[Any]) -> Any:
            return await batch_function(items)

        self.submit = serve.batch(
            max_batch_size=policy.max_batch_size,
            batch_wait_timeout_s=policy.max_wait,
            max_concurrent_batches=policy.max_concurrency,
        )(call)

    async def start(self) -> None:
        """It starts with the first item."""

    async def stop(self) -> None:
        """It ends with its event loop."""


class TestRayServe(BatcherSuite):
    capabilities = frozenset({"full", "window", "order", "concurrency"})
    expected_failures = {  # noqa: RUF012  # read only
        "test_an_end_of_any_kind_leaves_nobody_waiting": (
            "tests/findings/test_findings_ray_cancellation.py"
        ),
        "test_what_is_no_list_of_results_fails_the_call": (
            "tests/findings/test_findings_ray_results.py"
        ),
    }

    @pytest.fixture(autouse=True)
    def no_cluster(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ray_serve.alone(serve, monkeypatch)

    @pytest.fixture
    def make_batcher(self) -> MakeBatcher:
        return OfRay
