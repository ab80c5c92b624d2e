"""Properties of suites under ``--infopt``: which are collected, and the row that each becomes."""

from __future__ import annotations

import inspect
import shlex
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

from ..report.junit import PROPERTY, gate_from_properties, junit_properties
from ..results.gate_result import GateResult
from ..results.verdict import Judgement, Verdict
from .implementations import Suites, gate_files, template_topic
from .results import CONFORMANCE, EXPECTED_FAILURE, NOT_OFFERED, NOT_RUN, notes_on
from .suite_items import failure_text, suite_of

_LONGEST_REASON = 500  # characters; the whole message is in the judgement's details
_LONGEST_MESSAGE = 4000


class ImplementationClass(pytest.Class):
    """The suite's class of one implementation that infopt.toml names, under that name.

    Its tests are found whatever the user's ``python_functions`` says.
    """

    suite: type
    title: str

    def _getobj(self) -> type:
        return self.suite

    def funcnamefilter(self, name: str) -> bool:
        return name.startswith("test_")


class ConformanceHooks:
    """pytest's hooks on suites, bound to one run."""

    def __init__(self, suites: Suites, source_arguments: list[str]) -> None:
        self._suites = suites
        self._source_arguments = source_arguments
        self._others = {path for topic, path in gate_files().items() if topic not in suites}

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Leave the shipped gates of other topics alone: each imports its suite."""
        return True if collection_path in self._others else None

    def pytest_pycollect_makeitem(
        self, collector: pytest.Module | pytest.Class, name: str, obj: object
    ) -> list[pytest.Collector] | None:
        topic = template_topic(obj)
        if topic is None:
            return None
        found: list[pytest.Collector] = []
        for implementation, suite in self._suites.get(topic, {}).items():
            node = ImplementationClass.from_parent(collector, name=implementation.name)
            node.suite, node.title = suite, implementation.title
            found.append(node)
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        judgement = None if suite_of(item) is None else judgement_of(item, call, report)
        if judgement is None:
            return report
        if judgement.reason.startswith(NOT_RUN):
            report.outcome, report.longrepr = "failed", judgement.reason
        result = self._result(item, call, judgement)
        kept = [(name, value) for name, value in item.user_properties if not _is_ours(name)]
        item.user_properties[:] = [*kept, *junit_properties(result)]
        report.user_properties = list(item.user_properties)
        return report

    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """A skipped property fails, and not as an error of its setup."""
        if not (isinstance(report, pytest.TestReport) and report.failed):
            return None
        if not str(report.longrepr).startswith(NOT_RUN):
            return None
        result = gate_from_properties(report.user_properties)
        if result is None or result.gate != CONFORMANCE:
            return None
        return "failed", "F", (NOT_RUN, {"red": True})

    def _result(
        self, item: pytest.Item, call: pytest.CallInfo[None], judgement: Judgement
    ) -> GateResult:
        broke = judgement.verdict is Verdict.ERROR
        return GateResult(
            gate=CONFORMANCE,
            candidate=title_of(item),
            seconds=call.duration,
            judgements=[judgement],
            error=judgement.reason if broke else None,
            notes=notes_on([judgement]),
            reproduce=shlex.join(["pytest", "--infopt", *self._source_arguments, *_where(item)]),
        )


def judgement_of(
    item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
) -> Judgement | None:
    """What a phase of a property's item decides; None for a setup or teardown that went well."""
    name = item.name.removeprefix("test_")
    if hasattr(report, "wasxfail") and report.skipped:
        return Judgement(name, None, 0, 0, reason=f"{EXPECTED_FAILURE}: {report.wasxfail}")
    if report.skipped:
        reason = _skip_reason(report)
        if reason.startswith(NOT_OFFERED):
            return Judgement(name, None, 0, 0, reason=reason)
        return Judgement(name, None, 0, 0, Verdict.FAIL, reason=f"{NOT_RUN}: {reason}")
    if report.failed:
        verdict = Verdict.FAIL if report.when == "call" else Verdict.ERROR
        message, reason = _messages(call, report)
        details = {"message": _cut(message, _LONGEST_MESSAGE), "law": _law(item)}
        reason = _cut(" ".join(reason.split()), _LONGEST_REASON)
        return Judgement(name, None, 1, 1, verdict, reason=reason, details=details)
    return Judgement(name, None, 1, 1, Verdict.PASS) if report.when == "call" else None


def title_of(item: pytest.Item) -> str:
    """The implementation that an item is about: as infopt.toml names it, or the class's node id."""
    node = item.getparent(pytest.Class)
    if isinstance(node, ImplementationClass):
        return node.title
    assert node is not None  # suites are classes
    return f"{getattr(suite_of(item), 'topic', '')} {node.nodeid}".strip()


def plan_lines_of(items: list[pytest.Item]) -> list[str]:
    """What ``--collect-only`` says of implementations: how many properties each is held to."""
    properties = [item for item in items if suite_of(item) is not None]
    all_of = Counter(map(title_of, properties))
    unasked = Counter(title_of(item) for item in properties if _is_not_offered(item))
    expected = Counter(title_of(i) for i in properties if i.get_closest_marker("xfail"))
    return [
        f"implementation {title}: {count} properties"
        + (f", {unasked[title]} {NOT_OFFERED}" if unasked[title] else "")
        + (f", {expected[title]} expected to fail" if expected[title] else "")
        for title, count in all_of.items()
    ]


def _is_not_offered(item: pytest.Item) -> bool:
    return any(
        str(marker.kwargs.get("reason", "")).startswith(NOT_OFFERED)
        for marker in item.iter_markers("skip")
    )


def _where(item: pytest.Item) -> list[str]:
    """The arguments that run the item's whole class again."""
    node = item.getparent(pytest.Class)
    assert node is not None
    if isinstance(node, ImplementationClass):
        return ["--pyargs", f"infopt_suites.gates.{item.path.stem}::{node.name}"]
    return [node.nodeid]


def _messages(call: pytest.CallInfo[None], report: pytest.TestReport) -> tuple[str, str]:
    """Why an item failed, at length and in brief."""
    if call.excinfo is None:  # a strict expected failure that passed
        return str(report.longrepr), str(report.longrepr)
    return failure_text(call.excinfo), failure_text(call.excinfo, brief=True)


def _skip_reason(report: pytest.TestReport) -> str:
    place = report.longrepr
    text = place[2] if isinstance(place, tuple) else str(place)
    return text.removeprefix("Skipped: ")


def _law(item: pytest.Item) -> str:
    return inspect.getdoc(getattr(item, "function", None)) or ""


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _is_ours(name: object) -> bool:
    return str(name).partition(".")[0] == PROPERTY
