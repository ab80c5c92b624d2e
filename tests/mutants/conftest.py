"""What tests of mutants share."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def counted(record_property: Any) -> Any:
    """Call with "mutant" or "sound" and the area, before anything that may fail."""
    return lambda kind, area: record_property("kill", (kind, area))
