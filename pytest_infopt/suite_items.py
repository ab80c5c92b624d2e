"""What pytest does with the tests of conformance suites, with and without ``--infopt``.

Imports no suite: an item is a suite's if its class says how to prepare it (`infopt_suites.base`).
"""

from __future__ import annotations

import inspect
from collections.abc import Generator

import pytest

SECTION = "the property, and what usually breaks it"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what an implementation does not offer; expect the failures that it announces."""
    for item in items:
        suite = suite_of(item)
        if suite is not None:
            suite.prepare(item)  # type: ignore[attr-defined]  # Suite's, which is not imported here


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the law beside a failure: a suite's docstrings say why it matters and what breaks it."""
    report = yield
    if report.failed and call.when == "call" and suite_of(item) is not None:
        law = inspect.getdoc(item.function)  # type: ignore[attr-defined]  # a pytest.Function
        report.sections.append((SECTION, law or ""))
    return report


def suite_of(item: pytest.Item) -> type | None:
    """The suite class of a collected test, if it is of one."""
    cls = getattr(item, "cls", None)
    return cls if isinstance(cls, type) and hasattr(cls, "infopt_suite") else None
