"""What a run collects, and in which order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ..configuration import missing, plan_lines
from ..conformance.hooks import collect_too, plan_lines_of
from ..engines.registry import engine_named
from ..gates.base import GateSpec
from ..gates.registry import gates
from .gate_items import MARKER, is_for_infopt, is_gate, spec_of, subject_of
from .session import InfoptSession

_KEYWORDS = re.compile(r"(\bnot\s+)?\b([\w-]+)")


def add_release(config: pytest.Config, implementations: Path | None) -> list[GateSpec]:
    """Have the installed gates collected, and the file that names ``implementations``, beside what
    the command line names. Where it names some of these, by file or node id, only those.

    Returns the gates that are asked for on every candidate.
    """
    named = [_named_by(config, argument) for argument in config.args]
    components = implementations is not None and _names_file(config, implementations)
    if any(named) or components:
        whole = [
            spec
            for argument, specs in zip(config.args, named, strict=True)
            for spec in specs
            if "::" not in argument
        ]
        config.args[:] = map(_moved, config.args, named)
    else:
        whole = list(gates().values())
    asks_for_all = whole and len(set(whole)) == len(gates())
    files = [spec.procedure_file for spec in whole]
    if implementations is not None and asks_for_all:
        files.append(implementations)
    collect_too(config, files)
    return list(dict.fromkeys(whole))


def named_by_keyword(expression: str) -> list[GateSpec]:
    """The gates whose names are words of a -k expression, but for those right behind a "not"."""
    words = {word for unless, word in _KEYWORDS.findall(expression) if not unless}
    return [spec for spec in gates().values() if words & {spec.name, spec.word}]


def _named_by(config: pytest.Config, argument: str) -> list[GateSpec]:
    """The gates that a command-line argument names: by a node id, a file, or a package, each as a
    path or, with dots, as a module."""
    place = argument.partition("::")[0]
    path = config.invocation_params.dir / place
    if (path / "__init__.py").exists() or path.is_file():
        path = path.resolve()
        return [s for s in gates().values() if s.procedure_file.resolve().is_relative_to(path)]
    if path.exists():
        return []
    module = place.removesuffix(".py").strip("/").replace("/", ".")
    stem = module.rpartition(".")[2]
    return [
        spec
        for spec in gates().values()
        # The last one names modules of version 0.1, for one release: they shared a folder.
        if f"{spec.procedure}.".startswith(f"{module}.") or stem == f"test_gate_{spec.word}"
    ]


def _moved(argument: str, specs: list[GateSpec]) -> str:
    """The argument that pytest collects: the file, where a single gate is named."""
    place, colons, rest = argument.partition("::")
    single = len(specs) == 1 and not Path(place).is_dir()
    return f"{specs[0].procedure_file}{colons}{rest}" if single else argument


def _names_file(config: pytest.Config, file: Path) -> bool:
    places = (config.invocation_params.dir / arg.partition("::")[0] for arg in config.args)
    return any(place.is_file() and place.samefile(file) for place in places)


class GateModule(pytest.Module):
    """The procedure of a gate. Its tests are found whatever the user's ``python_functions`` says.

    Its node id is the same wherever the package is installed: pytest's own would be empty outside
    the rootdir. `add_release` takes it for an argument.
    """

    def funcnamefilter(self, name: str) -> bool:
        return name.startswith("test_")


class CollectionHooks:
    """pytest's hooks from collection to the plan."""

    def __init__(self, session: InfoptSession) -> None:
        self._session = session
        self._release = session.release

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(
        self, module_path: Path, parent: pytest.Collector
    ) -> GateModule | None:
        spec = next((s for s in gates().values() if s.procedure_file == module_path), None)
        if spec is None:
            return None
        module: GateModule = GateModule.from_parent(parent, path=module_path, nodeid=spec.node_id)
        return module

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
        if config.pluginmanager.hasplugin("xdist"):  # whose marker nobody else knows
            for item in gate_items:
                item.add_marker(pytest.mark.xdist_group(self._group(item)))

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        release = self._release
        parts = [release.origin]
        if release.candidates:
            names = ", ".join(candidate.name for candidate in release.candidates)
            parts.append(f"reference {release.reference.name}, candidates {names}")
        if release.implementations:
            titles = ", ".join(each.title for each in release.implementations)
            parts.append(f"implementations {titles}")
        faults = missing(release, config.rootpath) if release.candidates else []
        return [f"infopt: {'; '.join(parts)}", *(f"infopt: missing: {what}" for what in faults)]

    def pytest_report_collectionfinish(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> list[str]:
        if not config.option.collectonly:
            return []
        return plan_lines(self._release) + plan_lines_of(items)

    def _group(self, item: pytest.Item) -> str:
        """What one worker runs: a candidate's gates, which share its loaded model; a gate alone
        where replicas serve the candidate, and loading it costs nothing."""
        subject = subject_of(item)
        sources = [c.source for c in self._release.candidates if c.name == subject]
        servers = [each.server for each in sources if engine_named(each.engine).served]
        shared = any(server is not None and server.replicas for server in servers)
        return f"{subject} {spec_of(item).name}" if shared else subject

    def _order(self, item: pytest.Item) -> tuple[int, int, str]:
        """Candidate by candidate, so that one is loaded at a time; before them, what judges none
        of them."""
        names = [c.name for c in self._release.candidates]
        subject, spec = subject_of(item), spec_of(item)
        return (names.index(subject) if subject in names else -1, spec.order, spec.name)
