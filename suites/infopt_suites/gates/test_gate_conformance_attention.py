"""Conformance of each MakeAttention that infopt.toml names under ``attention``."""

import pytest

from infopt_suites.attention.attention import AttentionSuite
from infopt_suites.attention.protocol import MakeAttention
from infopt_suites.configured import Configured


class TestAttention(Configured, AttentionSuite):
    @pytest.fixture
    def make_attention(self) -> MakeAttention:
        implementation: MakeAttention = self.implementation
        return implementation
