"""Conformance of each MakePagedKV that infopt.toml names under ``paged_kv``."""

import pytest

from infopt_suites.attention.paged import PagedKVSuite
from infopt_suites.attention.paged_protocol import MakePagedKV
from infopt_suites.configured import Configured


class TestPagedKV(Configured, PagedKVSuite):
    @pytest.fixture
    def make_paged_kv(self) -> MakePagedKV:
        implementation: MakePagedKV = self.implementation
        return implementation
