"""What pytest does with the properties of suites, with and without ``--infopt``.

Imports no suite: an item is a suite's if its class has ``infopt_suite`` (`infopt_suites.base`).
"""

from __future__ import annotations

import inspect
from collections.abc import Generator
from typing import Any

import pytest

from . import NOT_OFFERED

SECTION = "the property, and what usually breaks it"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what an implementation does not offer; expect the failures that it announces."""
    for item in items:
        suite = suite_of(item)
        if suite is None:
            continue
        missing = suite.not_claimed(item)
        if missing:
            meaning = "; ".join(f"{word}: {suite.offers[word]}" for word in missing)
            item.add_marker(pytest.mark.skip(reason=f"{NOT_OFFERED}: {meaning}"))
        announced = suite.expected_failures.get(getattr(item, "originalname", item.name))
        if announced is not None:
            item.add_marker(pytest.mark.xfail(reason=announced, strict=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the property beside a failure: its docstring says why it matters and what breaks it."""
    report = yield
    if not report.failed or call.when != "call" or suite_of(item) is None:
        return report
    if call.excinfo is None:
        reason = str(report.longrepr).removeprefix("[XPASS(strict)]").strip()
        report.longrepr = (
            f"repaired: {item.name} passes; remove it from expected_failures (where the reason "
            f"given is {reason!r})"
        )
        return report
    test = item.function  # type: ignore[attr-defined]  # a pytest.Function
    if item.config.option.tbstyle == "auto" and _is_the_property_itself(
        call.excinfo, test.__module__
    ):
        report.longrepr = _broken_property(call.excinfo)
    report.sections.append((SECTION, inspect.getdoc(test) or ""))
    return report


def suite_of(item: pytest.Item) -> Any | None:
    """The suite class of a collected test, if it is of one."""
    cls = getattr(item, "cls", None)
    return cls if isinstance(cls, type) and hasattr(cls, "infopt_suite") else None


def _is_the_property_itself(raised: pytest.ExceptionInfo[BaseException], module: str) -> bool:
    """Whether the property itself, or a helper of the suite, says that it is broken.

    What the implementation raises is another matter: there the traceback counts.
    """
    where = raised.traceback[-1].frame.f_globals.get("__name__", "")
    of_the_suite = where == module or where.startswith("infopt_suites.")
    return isinstance(raised.value, AssertionError) and of_the_suite


def _broken_property(raised: pytest.ExceptionInfo[BaseException]) -> str:
    """Place, bound and counterexample; Hypothesis's frames and the suite's own tell no more."""
    entry = raised.traceback[-1]
    return f"{entry.path}:{entry.lineno + 1}: the property does not hold\n{failure_text(raised)}"


def failure_text(raised: pytest.ExceptionInfo[BaseException], *, brief: bool = False) -> str:
    """What an exception says, with its notes: the broken bound and the counterexample.

    An assertion without words of its own says what it asserts, and, unless ``brief``, of what;
    where it has words, what pytest adds to them is left out.
    """
    said = str(raised.value)
    if not isinstance(raised.value, AssertionError | pytest.fail.Exception):
        said = f"{type(raised.value).__name__}: {said}"
    if said.startswith("assert "):
        statement = str(raised.traceback[-1].statement).strip()
        said = statement if brief else f"{statement}\n{said}"
    elif isinstance(raised.value, AssertionError):
        said = said.partition("\nassert ")[0]
    return ("; " if brief else "\n").join([said, *getattr(raised.value, "__notes__", [])])
