"""Conformance of each MakeSmoother that infopt.toml names under ``smoother``."""

import pytest

from infopt_suites.configured import Configured
from infopt_suites.quantization.smoothing import MakeSmoother, SmoothingSuite


class TestSmoother(Configured, SmoothingSuite):
    @pytest.fixture
    def make_smoother(self) -> MakeSmoother:
        implementation: MakeSmoother = self.implementation
        return implementation
