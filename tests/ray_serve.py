"""ray.serve.batch where no cluster runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


def alone(serve: Any, monkeypatch: pytest.MonkeyPatch, most: int = 100) -> None:
    """Give the queue the one number that it asks its replica for: requests at a time."""
    replica = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=most))
    monkeypatch.setattr(serve, "get_replica_context", lambda: replica)
    # Where no event loop runs, it makes one that nobody closes, to ask whether that one runs. To
    # stay: queues are collected after the test.
    serve.batching._BatchQueue.__del__ = lambda queue: None
