"""What a run was asked for, what it was told to leave out, and what of it came to its end.

The gates asked for follow from the release and the command line, not from what was collected: a
gate that a plugin, an ignored folder or a crash kept away is missed.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from ..conformance.hooks import title_of
from ..conformance.results import CONFORMANCE, properties
from ..conformance.suite_items import suite_of
from ..gates.base import GateSpec
from ..gates.limits import not_applicable
from ..gates.registry import gates
from ..release import Release
from ..results.gate_result import GateResult
from ..results.verdict import Verdict
from .gate_items import is_gate, spec_of, subject_of
from .item_results import result_of

Key = tuple[str, str]  # gate and candidate; "" and the node id of a test of the user's own
_OWN = ""


class Broken(NamedTuple):
    """Failures that no verdict explains: gates that came to no verdict (a fixture, a crash), tests
    of the user's own, and what broke beside a verdict."""

    gates: list[GateResult]
    tests: list[str]
    faults: list[str]


class Scope:
    """Watches collection and reports of one run, here and in xdist's workers.

    ``whole`` are the gates that are asked for on each candidate that they judge, ``selected`` those
    that the command line selects by their names.
    """

    def __init__(
        self, release: Release, whole: Sequence[GateSpec], selected: Sequence[GateSpec] = ()
    ) -> None:
        self._expected = [(spec.name, c.name) for spec in whole for c in spec.judged(release)]
        whole_release = len(whole) == len(gates())
        judged = {name for _, name in self._expected}
        self._unjudged = [
            f"{candidate.name}: no gate judges it, because it has no limits"
            for candidate in release.candidates
            if whole_release and candidate.name not in judged
        ]
        self._unjudged += _unserved(release, [*([] if whole_release else whole), *selected])
        # A crash may be all that a controller hears of an item.
        self._usual = {
            f"{spec.node_id}::test_{spec.word}[{c.name}]": (spec.name, c.name)
            for spec in gates().values()
            for c in spec.judged(release)
        }
        self._keys: dict[str, Key] = {}  # of each selected item, by node id
        self._left_out: dict[Key, list[str]] = {}  # deselected items, by name
        self._ended: set[str] = set()
        self._broken: dict[str, str] = {}  # node ids of failures that no verdict explains: why
        self._learned = False

    @property
    def planned(self) -> list[Key]:
        """Gates and implementations, in the order of running."""
        return [key for key in dict.fromkeys(self._keys.values()) if key[0] != _OWN]

    # pytest's hooks

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        # The innermost wrapper: -k, -m and --deselect take effect within, --lf and --ff around it.
        collected = list(items)
        yield
        self._learned = True
        self._keys = {item.nodeid: key_of(item) for item in items}
        if not _was_told_what_to_leave_out(config):
            return
        kept = {(key_of(item), item.name) for item in items}
        for item in collected:
            key = key_of(item)
            if key[0] != _OWN and (key, item.name) not in kept:
                self._left_out.setdefault(key, []).append(item.name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._broken[report.nodeid] = "could not be collected"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "setup" or not report.passed:
            self._ended.add(report.nodeid)
        result = result_of(report)
        if report.failed and (result is None or result.verdict is Verdict.PASS):
            self._broken.setdefault(report.nodeid, _reason(report))

    # What came of it

    def left_out(self) -> Iterator[str]:
        """What the command line deselected, or, naming other gates, did not name."""
        for key, names in self._left_out.items():
            some = key in self._keys.values()
            yield f"{label(key)}: {properties(len(names)) + ' ' if some else ''}deselected"
        known = {*self._expected, *self._left_out, *self._keys.values()}
        if self._learned:
            unnamed = (key for key in self._usual.values() if key not in known)
            yield from (f"{label(key)}: not named" for key in unnamed)

    def unfinished(self, results: Collection[Key]) -> Iterator[str]:
        """What was asked for and did not come to its end."""
        yield from self._unjudged
        nodes: dict[Key, list[str]] = {key: [] for key in self._expected}
        for node, key in self._keys.items():
            nodes.setdefault(key, []).append(node)
        for key, of_key in nodes.items():
            missing = [node for node in of_key if node not in self._ended]
            if key[0] in (_OWN, CONFORMANCE):
                if missing:
                    part = f": {len(missing)} of {properties(len(of_key))}"
                    yield label(key) + (part if len(missing) < len(of_key) else "")
            elif key not in results and (of_key or key not in self._left_out):
                yield label(key)

    def broken(self, results: Collection[Key]) -> Broken:
        """What failed without a verdict that explains it. ``results`` are what has one."""
        found = Broken([], [], [])
        for node, why in self._broken.items():
            usual = self._usual.get(node[: node.find("]") + 1], (_OWN, node))
            key = self._keys.get(node, usual)
            if key[0] == _OWN:
                found.tests.append(f"{node}: {why}")
            elif key in results:
                found.faults.append(f"{label(key)}: {why}")
            else:
                found.gates.append(GateResult(*key, seconds=0.0, error=why))
        return found

    @property
    def learned(self) -> bool:
        """Whether anybody said what was collected; no xdist worker may have lived to."""
        return self._learned

    # xdist's workers tell their controller

    def to_json(self) -> dict[str, Any]:
        return {
            "keys": {node: list(key) for node, key in self._keys.items()},
            "left_out": [[*key, names] for key, names in self._left_out.items()],
        }

    def join(self, of_worker: dict[str, Any]) -> None:
        """Learn what a worker collected; all of them collect the same."""
        self._learned = True
        self._keys |= {node: (gate, name) for node, (gate, name) in of_worker["keys"].items()}
        self._left_out |= {(gate, name): names for gate, name, names in of_worker["left_out"]}


def _unserved(release: Release, named: Sequence[GateSpec]) -> Iterator[str]:
    """Gates that the command line names, and so asks for, and that an engine cannot serve."""
    for candidate in release.candidates:
        found = not_applicable(candidate, release.reference)
        for spec in named:
            if unable := found.get(spec.name):
                where = label((spec.name, candidate.name))
                yield f"{where}: not applicable to engine {unable.engine}: needs {unable.lacks}"


def key_of(item: pytest.Item) -> Key:
    """What an item is about."""
    if is_gate(item) and subject_of(item):
        return spec_of(item).name, subject_of(item)
    if suite_of(item) is not None:
        return CONFORMANCE, title_of(item)
    return _OWN, item.nodeid


def label(key: Key) -> str:
    """The key as reports write it."""
    gate, subject = key
    return f"{gate} of {subject}" if gate else subject


def _was_told_what_to_leave_out(config: pytest.Config) -> bool:
    """Whether the command line selects. --lf and --sw leave out what an earlier run has passed:
    that says nothing of this release."""
    option = config.option
    selects = option.keyword or option.markexpr or option.deselect
    return bool(selects) and not (
        getattr(option, "lf", False) or getattr(option, "stepwise", False)
    )


def _reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    words = str(getattr(crash, "message", "") or report.longrepr or "failed")
    return " ".join(words.split())[:500]
