"""Conformance of each Packing that infopt.toml names under ``packing``."""

import pytest

from infopt_suites.configured import Configured
from infopt_suites.quantization.packing import PackingSuite
from infopt_suites.quantization.protocol import Packing


class TestPacking(Configured, PackingSuite):
    @pytest.fixture
    def packing(self) -> Packing:
        implementation: Packing = self.implementation
        return implementation
