"""What tests of other people's implementations share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from infopt_suites.base import Suite

QUANTIZERS = "1 quantizers: real implementations"
ATTENTION = "2 attention and caches: real implementations"
BATCHING = "3 batchers and schedulers: real implementations"
DECODING = "5 speculative decoding: real implementations"
CACHING = "4 caches of answers: real implementations"
DISTILLATION = "6 distillation: real implementations"


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Some libraries compile their CPU routines, which takes longer than all tests here."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(autouse=True)
def counted_as_sound(request: pytest.FixtureRequest, record_property: Any) -> None:
    """A property that an accepted implementation fails counts as a false alarm of `make kill`."""
    suite = request.cls
    if suite is None or not issubclass(suite, Suite):
        return
    modules = [base.__module__ for base in suite.__mro__]
    areas = {
        "infopt_suites.attention": ATTENTION,
        "infopt_suites.batching": BATCHING,
        "infopt_suites.caching": CACHING,
        "infopt_suites.decoding": DECODING,
        "infopt_suites.distillation": DISTILLATION,
    }
    named = (area for name, area in areas.items() if any(m.startswith(name) for m in modules))
    area = next(named, QUANTIZERS)
    if request.node.originalname not in suite.expected_failures:
        record_property("kill", ("sound", area))
