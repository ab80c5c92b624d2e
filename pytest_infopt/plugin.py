"""pytest's way in: declares options and markers, and starts a run where ``--infopt`` asks for one.

Loaded in every pytest run of an environment that has it installed, so it imports nothing heavy:
what a run needs is in `run.start`, imported on demand.
"""

from __future__ import annotations

import pytest

from . import options
from .conformance import suite_items
from .fixtures import caches as caching_fixtures
from .fixtures import models as fixtures

MARKERS = [
    "infopt: a test of yours that `pytest --infopt` runs beside the shipped gates",
    "infopt_gate(name): a module that holds the gate of that name (used by the shipped gates)",
    "infopt_requires(capability, …): a suite's property of what an implementation may offer",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.pluginmanager.register(fixtures, "infopt-fixtures")
    config.pluginmanager.register(caching_fixtures, "infopt-caching-fixtures")
    config.pluginmanager.register(suite_items, "infopt-suite-items")
    if config.option.help or config.option.version:
        return  # which must not fail on a configuration that cannot be used
    if options.resolve(config, "infopt"):
        from .run.start import start

        start(config)
    else:
        options.check_alone(config)
