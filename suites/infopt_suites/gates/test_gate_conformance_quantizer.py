"""Conformance of each MakeQuantizer that infopt.toml names under ``quantizer``."""

import pytest

from infopt_suites.configured import Configured
from infopt_suites.quantization.protocol import MakeQuantizer
from infopt_suites.quantization.quantizer import QuantizerSuite


class TestQuantizer(Configured, QuantizerSuite):
    @pytest.fixture
    def make_quantizer(self) -> MakeQuantizer:
        implementation: MakeQuantizer = self.implementation
        return implementation
