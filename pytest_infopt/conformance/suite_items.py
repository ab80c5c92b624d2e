"""What pytest does with the properties of suites, with and without ``--infopt``.

Imports no suite: an item is a suite's if its class has ``infopt_suite`` (`infopt_suites.base`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Generator
from typing import Any

import pytest

from . import NOT_OFFERED

SECTION = "the property, and what usually breaks it"
REFUSED = "what decides which cases are tried"
# Whose frames say nothing of the implementation.
_MACHINERY = re.compile(r"(infopt_suites|pytest_infopt|hypothesis|_pytest|pluggy|asyncio)")


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
    """Show the property beside a failure: its docstring says why it matters and what breaks it.

    An exception is another matter: there the implementer's own frames count, and what decides
    whether such a case is tried at all.
    """
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
    if _is_the_precheck(call.excinfo):
        return report
    itself = _is_the_property_itself(item, call.excinfo)
    if item.config.option.tbstyle == "auto":
        report.longrepr = (_broken_property if itself else _raised_by_it)(call.excinfo)
    report.sections.append((SECTION if itself else REFUSED, explanation(item, call.excinfo)))
    return report


def explanation(item: pytest.Item, raised: pytest.ExceptionInfo[BaseException] | None) -> str:
    """What helps whoever reads of a failure: the property, or how to leave out what was tried."""
    if raised is not None and _is_the_precheck(raised):
        return ""
    if raised is not None and not _is_the_property_itself(item, raised):
        return suite_of(item).what_decides()  # type: ignore[no-any-return,union-attr]  # of a suite
    return inspect.getdoc(getattr(item, "function", None)) or ""


def suite_of(item: pytest.Item) -> Any | None:
    """The suite class of a collected test, if it is of one."""
    cls = getattr(item, "cls", None)
    return cls if isinstance(cls, type) and hasattr(cls, "infopt_suite") else None


def _is_the_property_itself(item: pytest.Item, raised: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether the property itself, or a helper of the suite, says that it is broken.

    What the implementation raises is another matter: there the traceback counts.
    """
    if isinstance(raised.value, pytest.fail.Exception):
        return True
    last = raised.traceback[-1]
    module = item.function.__module__  # type: ignore[attr-defined]  # a pytest.Function
    of_the_suite = _module(last) == module or _root(last) == "infopt_suites"
    return isinstance(raised.value, AssertionError) and of_the_suite


def _is_the_precheck(raised: pytest.ExceptionInfo[BaseException]) -> bool:
    """Whether a sentence stands for itself: no property was tried."""
    return isinstance(raised.value, pytest.fail.Exception) and not raised.value.pytrace


def _broken_property(raised: pytest.ExceptionInfo[BaseException]) -> str:
    """Place, bound and counterexample; Hypothesis's frames and the suite's own tell no more."""
    entry = raised.traceback[-1]
    return f"{entry.path}:{entry.lineno + 1}: the property does not hold\n{failure_text(raised)}"


def _raised_by_it(raised: pytest.ExceptionInfo[BaseException]) -> Any:
    """The implementer's frames; where there are none, what the suite did with a result."""
    theirs = raised.traceback.filter(lambda entry: not _MACHINERY.match(_module(entry)))
    shown = theirs or raised.traceback[-1:]
    return raised.getrepr(style="short", tbfilter=lambda _: shown)


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


def _module(entry: Any) -> str:
    return str(entry.frame.f_globals.get("__name__", ""))


def _root(entry: Any) -> str:
    return _module(entry).partition(".")[0]
