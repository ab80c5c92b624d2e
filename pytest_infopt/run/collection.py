"""What a run collects, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..configuration import plan_lines
from ..conformance.hooks import collect_too, plan_lines_of, title_of
from ..conformance.results import CONFORMANCE
from ..conformance.suite_items import suite_of
from ..gates.registry import gates
from .gate_items import MARKER, is_for_infopt, is_gate, spec_of, subject_of
from .session import InfoptSession


def add_gates(config: pytest.Config) -> None:
    """Collect the installed gates too, unless the command line names what to collect."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        collect_too(config, [spec.procedure_file for spec in gates().values()])


def moved_arguments(config: pytest.Config) -> None:
    """Let node ids of version 0.1 go on working for one release: a gate's procedure was a module
    of a shared folder then (``….gates.test_gate_quality``), and has a folder of its own now."""
    procedures = {f"test_gate_{spec.word}": spec for spec in gates().values()}
    for index, argument in enumerate(config.args):
        place, colons, rest = argument.partition("::")
        stem = Path(place.removesuffix(".py").replace(".", "/")).name
        spec = procedures.get(stem)
        if spec is not None and not Path(place).exists() and place != spec.procedure:
            config.args[index] = f"{spec.procedure_file}{colons}{rest}"


class CollectionHooks:
    """pytest's hooks from collection to the plan."""

    def __init__(self, session: InfoptSession) -> None:
        self._session = session
        self._release = session.release

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if MARKER not in metafunc.fixturenames:
            return
        names = [c.name for c in spec_of(metafunc.definition).judged(self._release)]
        metafunc.parametrize(MARKER, names, indirect=True, ids=names)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        gate_items = [item for item in items if is_gate(item) and subject_of(item)]
        own = [item for item in items if not is_gate(item) and is_for_infopt(item)]
        kept = {*gate_items, *own}
        dropped = [item for item in items if item not in kept]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
        gate_items.sort(key=self._order)
        items[:] = gate_items + own
        for item in gate_items:
            item.add_marker(pytest.mark.xdist_group(subject_of(item)))
        planned = [(spec_of(item).name, subject_of(item)) for item in gate_items]
        properties = [item for item in items if suite_of(item) is not None]
        planned += dict.fromkeys((CONFORMANCE, title_of(item)) for item in properties)
        self._session.planned = planned

    def pytest_report_header(self) -> list[str]:
        release = self._release
        parts = [release.origin]
        if release.candidates:
            names = ", ".join(candidate.name for candidate in release.candidates)
            parts.append(f"reference {release.reference.name}, candidates {names}")
        if release.implementations:
            titles = ", ".join(each.title for each in release.implementations)
            parts.append(f"implementations {titles}")
        return [f"infopt: {'; '.join(parts)}"]

    def pytest_report_collectionfinish(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> list[str]:
        if not config.option.collectonly:
            return []
        return plan_lines(self._release) + plan_lines_of(items)

    def _order(self, item: pytest.Item) -> tuple[int, int, str]:
        """Candidate by candidate, so that one is loaded at a time; before them, what judges none
        of them."""
        names = [c.name for c in self._release.candidates]
        subject, spec = subject_of(item), spec_of(item)
        return (names.index(subject) if subject in names else -1, spec.order, spec.name)
