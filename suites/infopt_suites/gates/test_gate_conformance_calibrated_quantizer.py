"""Conformance of each calibrated quantizer that infopt.toml names under its topic."""

import pytest

from infopt_suites.configured import Configured
from infopt_suites.quantization.calibrated import CalibratedQuantizerSuite, MakeCalibratedQuantizer


class TestCalibratedQuantizer(Configured, CalibratedQuantizerSuite):
    @pytest.fixture
    def make_calibrated_quantizer(self) -> MakeCalibratedQuantizer:
        implementation: MakeCalibratedQuantizer = self.implementation
        return implementation
