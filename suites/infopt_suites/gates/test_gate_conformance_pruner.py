"""Conformance of each MakePruner that infopt.toml names under ``pruner``."""

import pytest

from infopt_suites.configured import Configured
from infopt_suites.pruning import MakePruner, PruningSuite


class TestPruner(Configured, PruningSuite):
    @pytest.fixture
    def make_pruner(self) -> MakePruner:
        implementation: MakePruner = self.implementation
        return implementation
