"""Running one property of a suite without pytest, on an implementation that is given directly."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pytest
from infopt_suites.base import REQUIRES, Suite, implementer_attributes, suite_tests


def run_property(
    suite: type[Suite], name: str, attributes: Mapping[str, Any] | None = None, **fixtures: Any
) -> None:
    """Call a suite's test with fixtures by value, as a subclass with these class attributes would.

    Raises:
        AssertionError: the property fails, or the capabilities in ``attributes`` do not include
            those that it needs, so that pytest would have skipped it.
        TypeError: the implementation does not pass the suite's precheck.
        LookupError: the property tried nothing.
    """
    subclass = type(f"{suite.__name__}Trial", (suite,), dict(attributes or {}))
    test = getattr(subclass(), name)
    missing = needs(suite, name) - set(subclass.capabilities)
    assert not missing, f"{name} is not run without the capabilities {sorted(missing)}"
    if suite.fixture in fixtures:  # caches come as `Caches`
        subclass().check_implementation(fixtures[suite.fixture])
    try:
        test(**fixtures)
    except pytest.skip.Exception as skipped:
        raise LookupError(str(skipped)) from None


def declared(suite: type[Suite], implementation: Any) -> dict[str, Any]:
    """What an implementation says with attributes of the suite's names."""
    names = implementer_attributes(suite)
    return {x: getattr(implementation, x) for x in names if hasattr(implementation, x)}


def needs(suite: type[Suite], name: str) -> set[str]:
    """The capabilities without which a test of a suite is skipped."""
    marks = getattr(getattr(suite, name), "pytestmark", ())
    return {word for mark in marks if mark.name == REQUIRES for word in mark.args}


def claimed_tests(suite: type[Suite], capabilities: Collection[str]) -> list[str]:
    """The tests of a suite that run for an implementation with these capabilities."""
    return [name for name in suite_tests(suite) if needs(suite, name) <= {*capabilities}]
