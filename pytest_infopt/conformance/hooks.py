"""Properties of suites under ``--infopt``: which are collected, and the row that each becomes.

Implementations are collected from the file that names them: infopt.toml::TOPIC::NAME::test_x.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ..release import Implementation
from ..report.junit import PROPERTY, gate_from_properties, junit_properties
from ..results.gate_result import GateResult
from ..results.verdict import Judgement, Verdict
from . import NOT_OFFERED, NOTHING_TO_TRY, UNUSABLE
from .implementations import Suites
from .results import (
    CONFORMANCE,
    EXPECTED_FAILURE,
    NOT_RUN,
    not_tried,
    notes_on,
    properties,
)
from .suite_items import explanation, failure_text, suite_of

_LONGEST_REASON = 500  # characters; the whole message is in the judgement's details
_LONGEST_MESSAGE = 4000
# Until version 0.2: each topic had a file among the shipped gates.
_FORMER_FILE = re.compile(r".*test_gate_conformance_(?P<topic>\w+?)(\.py)?(?P<rest>::.*)?")


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


class Topic(pytest.Collector):
    """The implementations of one topic."""

    suites: Mapping[Implementation, type]

    def collect(self) -> Iterator[ImplementationClass]:
        for implementation, suite in self.suites.items():
            node = ImplementationClass.from_parent(self, name=implementation.name)
            node.suite, node.title = suite, implementation.title
            yield node


class ImplementationsFile(pytest.Module):
    """The file that names implementations, in the place of a module of tests."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.topics: list[pytest.Collector] = []  # the same whenever they are collected

    def _getobj(self) -> ModuleType:
        return ModuleType(self.path.stem)

    def collect(self) -> list[pytest.Collector]:
        return self.topics


def collect_too(config: pytest.Config, files: Iterable[Path]) -> None:
    """Have pytest collect these files beside what it collects anyway, wherever they lie.

    pytest drops an argument that lies below another one, even where it does not walk there, as in
    a virtual environment. It keeps duplicates instead, which `ConformanceHooks` removes.
    """
    # File by file: explicit files are collected whatever the user's python_files says.
    config.args.extend(str(file) for file in files if str(file) not in config.args)
    config.option.keepduplicates = True


def moved_implementations(config: pytest.Config, file: Path) -> None:
    """Let node ids of version 0.1 go on working for one release: ``file`` names implementations."""
    for index, argument in enumerate(config.args):
        former = _FORMER_FILE.fullmatch(argument)
        if former is not None:
            config.args[index] = f"{file}::{former['topic']}{former['rest'] or ''}"


class ConformanceHooks:
    """pytest's hooks on suites, bound to one run."""

    def __init__(self, suites: Suites, file: Path, source_arguments: list[str]) -> None:
        self._suites = suites
        self._file = file
        self._source_arguments = source_arguments

    def pytest_collect_file(
        self, file_path: Path, parent: pytest.Collector
    ) -> ImplementationsFile | None:
        if file_path != self._file or not self._suites:
            return None
        node = ImplementationsFile.from_parent(parent, path=file_path)
        for topic, suites in self._suites.items():
            found = Topic.from_parent(node, name=topic)
            found.suites = suites
            node.topics.append(found)
        return node

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep one item of each id, as pytest does itself unless `collect_too` has files kept."""
        items[:] = {item.nodeid: item for item in items}.values()

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
            reproduce=shlex.join(["pytest", *self._infopt(item), _where(item)]),
        )

    def _infopt(self, item: pytest.Item) -> list[str]:
        """What has the implementation found again; a class needs no --infopt, which adds gates."""
        named = isinstance(item.getparent(pytest.Class), ImplementationClass)
        return ["--infopt", *self._source_arguments] if named else []


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
            details = {"not_claimed": _not_claimed(item)}
            return Judgement(name, None, 0, 0, reason=reason, details=details)
        if reason.startswith((NOTHING_TO_TRY, UNUSABLE)):
            return Judgement(name, None, 0, 0, reason=reason)
        return Judgement(name, None, 0, 0, Verdict.FAIL, reason=f"{NOT_RUN}: {reason}")
    if report.failed:
        verdict = Verdict.FAIL if report.when == "call" else Verdict.ERROR
        message, reason = _messages(call, report)
        message = _cut(message, _LONGEST_MESSAGE)
        # "law": schema 1's key
        broken = {"message": message, "law": explanation(item, call.excinfo)}
        reason = _cut(" ".join(reason.split()), _LONGEST_REASON)
        return Judgement(name, None, 1, 1, verdict, reason=reason, details=broken)
    if report.when != "call":
        return None
    tally = getattr(item.instance, "infopt_tally", None)  # type: ignore[attr-defined]  # of a class
    if tally is None:
        return Judgement(name, None, 1, 1, Verdict.PASS)
    kinds = {topic: list(words) for topic, words in tally.kinds.items()}
    told: dict[str, Any] = {"kinds": kinds} if kinds else {}
    return Judgement(name, None, tally.cases, tally.cases, Verdict.PASS, details=told)


def title_of(item: pytest.Item) -> str:
    """The implementation that an item is about: as infopt.toml names it, or the class's node id."""
    node = item.getparent(pytest.Class)
    if isinstance(node, ImplementationClass):
        return node.title
    assert node is not None  # suites are classes
    return f"{getattr(suite_of(item), 'topic', '')} {node.nodeid}".strip()


def plan_lines_of(items: list[pytest.Item]) -> list[str]:
    """What ``--collect-only`` says of implementations: how many properties each is held to.

    A line follows for each set of capabilities that leaves properties untried.
    """
    of_title: dict[str, list[pytest.Item]] = {}
    for item in items:
        if suite_of(item) is not None:
            of_title.setdefault(title_of(item), []).append(item)
    return [line for title, found in of_title.items() for line in _plan_of(title, found)]


def _plan_of(title: str, items: list[pytest.Item]) -> list[str]:
    left_out = [(_not_claimed(i), i.name.removeprefix("test_")) for i in items if _not_claimed(i)]
    expected = sum(item.get_closest_marker("xfail") is not None for item in items)
    counts = [(len(left_out), NOT_OFFERED), (expected, "expected to fail")]
    said = [properties(len(items)), *(f"{count} {what}" for count, what in counts if count)]
    return [
        f"implementation {title}: {', '.join(said)}",
        *(f"  {line}" for line in not_tried(left_out)),
    ]


def _not_claimed(item: pytest.Item) -> list[str]:
    found: list[str] = suite_of(item).not_claimed(item)  # type: ignore[union-attr]  # of a suite
    return found


def _where(item: pytest.Item) -> str:
    """The argument that runs the item's whole class again, where the run was started."""
    node = item.getparent(pytest.Class)
    assert node is not None
    names = node.nodeid.partition("::")[2]
    folder = item.config.invocation_params.dir
    path = item.path.relative_to(folder) if item.path.is_relative_to(folder) else item.path
    return f"{path}::{names}"


def _messages(call: pytest.CallInfo[None], report: pytest.TestReport) -> tuple[str, str]:
    """Why an item failed, at length and in brief."""
    if call.excinfo is None:  # a strict expected failure that passed
        return str(report.longrepr), str(report.longrepr)
    return failure_text(call.excinfo), failure_text(call.excinfo, brief=True)


def _skip_reason(report: pytest.TestReport) -> str:
    place = report.longrepr
    text = place[2] if isinstance(place, tuple) else str(place)
    return text.removeprefix("Skipped: ")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _is_ours(name: object) -> bool:
    return str(name).partition(".")[0] == PROPERTY
