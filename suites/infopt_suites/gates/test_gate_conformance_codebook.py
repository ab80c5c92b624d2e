"""Conformance of each Codebook that infopt.toml names under ``codebook``."""

import pytest

from infopt_suites.configured import Configured
from infopt_suites.quantization.codebook import CodebookSuite
from infopt_suites.quantization.protocol import Codebook


class TestCodebook(Configured, CodebookSuite):
    @pytest.fixture
    def codebook(self) -> Codebook:
        implementation: Codebook = self.implementation
        return implementation
