"""Fixtures for the tests of measuring; the fake engines are in measure_fakes.py."""

from __future__ import annotations

import pytest
from measure_fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
