"""What tests of other people's quantizers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from infopt_suites.base import Suite

AREA = "1 quantizers: real implementations"


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Some libraries compile their CPU routines, which takes longer than all tests here."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture(autouse=True)
def counted_as_sound(request: pytest.FixtureRequest, record_property: Any) -> None:
    """A law that an accepted implementation fails counts as a false alarm of `make kill`."""
    suite = request.cls
    if suite is None or not issubclass(suite, Suite):
        return
    if request.node.originalname not in suite.expected_failures:
        record_property("kill", ("sound", AREA))
