"""Conformance of each MakeFakeQuantizer that infopt.toml names under ``fake_quantizer``."""

import pytest

from infopt_suites.configured import Configured
from infopt_suites.quantization.fake_quantization import FakeQuantSuite, MakeFakeQuantizer


class TestFakeQuantizer(Configured, FakeQuantSuite):
    @pytest.fixture
    def make_fake_quantizer(self) -> MakeFakeQuantizer:
        implementation: MakeFakeQuantizer = self.implementation
        return implementation
