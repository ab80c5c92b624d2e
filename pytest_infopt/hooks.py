"""The hooks of a run under ``--infopt``: what is collected, in which order, what comes of it."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .configuration import load_release, plan_lines
from .conformance import hooks as conformance
from .conformance.implementations import load_suites
from .conformance.results import CONFORMANCE
from .conformance.suite_items import suite_of
from .errors import ConfigurationError, InfoptError, InvalidComparisonError
from .exit_status import exit_status
from .gate import GateRun, raise_unless_passed
from .judge.verdict import Verdict, combine
from .metrics import Gate
from .options import settings
from .progress import Progress
from .report.junit import gate_from_properties, junit_properties
from .report.result import GateResult
from .report.terminal import terminal_lines
from .report.write import annotation_lines, write_reports
from .session import SESSION_KEY, InfoptSession, open_session

if TYPE_CHECKING:
    from .release import Release

GATE_KEY: pytest.StashKey[GateRun] = pytest.StashKey()


def start(config: pytest.Config) -> None:
    """Read the configuration, open the run's folder, and register the hooks below.

    Raises pytest.UsageError on a configuration that cannot be used.
    """
    try:
        release = load_release(config.rootpath, settings(config))
        suites = load_suites(config, release.implementations)
        session = open_session(config, release)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[SESSION_KEY] = session
    _add_gates(config)
    conformance.start(config, suites, Path(release.origin), session.source_arguments)
    config.pluginmanager.register(InfoptHooks(config, session), "infopt-hooks")
    config.pluginmanager.register(ResumedVerdicts(session), "infopt-resume")
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(XdistHooks(session), "infopt-xdist")


def _add_gates(config: pytest.Config) -> None:
    """Collect the shipped gates too, unless the command line names what to collect."""
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        return
    import infopt_suites.gates

    folder = Path(infopt_suites.gates.__path__[0])
    conformance.collect_too(config, sorted(folder.glob("test_gate_*.py")))


class InfoptHooks:
    """pytest's hooks, bound to one run."""

    def __init__(self, config: pytest.Config, session: InfoptSession) -> None:
        self._session = session
        self._progress = Progress(config)
        self._is_controller = not hasattr(config, "workerinput")
        self._explained = 0  # failed reports that are a verdict's
        session.on_progress = self._progress.show

    @property
    def _release(self) -> Release:
        return self._session.release

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "infopt_gate" not in metafunc.fixturenames:
            return
        gate = _gate_of(metafunc.definition)
        names = [c.name for c in self._session.subjects(gate)]
        metafunc.parametrize("infopt_gate", names, indirect=True, ids=names)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        gates = [item for item in items if _is_gate(item) and _subject(item)]
        own = [i for i in items if not _is_gate(i) and _is_for_infopt(i)]
        kept = {*gates, *own}
        dropped = [item for item in items if item not in kept]
        if dropped:
            config.hook.pytest_deselected(items=dropped)
        items[:] = sorted(gates, key=self._order) + own
        for item in gates:
            item.add_marker(pytest.mark.xdist_group(_subject(item)))
        self._session.planned = [
            (_gate_of(item).value, _subject(item)) for item in items if _is_gate(item)
        ]
        titles = [conformance.title_of(item) for item in items if suite_of(item) is not None]
        self._session.planned += dict.fromkeys((CONFORMANCE, title) for title in titles)

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
        return plan_lines(self._release) + conformance.plan_lines_of(items)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        """Tell a verdict from a broken measurement, and keep both."""
        __tracebackhide__ = True
        gate = pyfuncitem.stash.get(GATE_KEY, None)
        if gate is None:
            return (yield)
        try:
            return (yield)
        except pytest.fail.Exception:  # a verdict: the gate has concluded
            raise
        except InvalidComparisonError as error:
            gate.abstain(str(error))
            return True
        except InfoptError as error:
            self._session.finish(gate.error(str(error)))
            pytest.fail(
                f"harness error, no verdict on {gate.candidate.name}: {error}", pytrace=False
            )
        except Exception as error:
            self._session.finish(gate.error(f"{type(error).__name__}: {error}"))
            raise
        finally:
            self._progress.clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        gate = item.stash.get(GATE_KEY, None)
        if gate is not None and call.when == "call":
            result = self._session.results.get((gate.gate, gate.candidate.name))
            if result is not None:
                item.user_properties.extend(junit_properties(result))
        return (yield)

    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        if report.when != "call" or not isinstance(report, pytest.TestReport):
            return None
        gate = gate_from_properties(report.user_properties)
        if gate is None or gate.gate == CONFORMANCE:
            return None
        if gate.verdict is Verdict.INCONCLUSIVE:
            return "inconclusive", "I", ("INCONCLUSIVE", {"yellow": True})
        if gate.verdict is Verdict.ERROR:
            return "error", "E", ("HARNESS ERROR", {"red": True})
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        gate = _result_of(report)
        if gate is not None:
            self._session.gather(gate)
            self._explained += report.failed and gate.verdict is not Verdict.PASS

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        self._session.close()
        if not self._is_controller or session.config.option.collectonly:
            return
        run = self._session.run_result()
        write_reports(run, self._session.directory)
        self._session.ratchet.update(run.gates)
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = self._exit_status(session)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if config.option.collectonly or not self._is_controller:
            return
        run = self._session.run_result()
        terminalreporter.section("infopt")
        for line in terminal_lines(run, config.get_terminal_writer().fullwidth):
            terminalreporter.write_line(line)
        terminalreporter.write_line(f"reports: {self._session.directory}")
        for line in annotation_lines(run):
            terminalreporter.write_line(line)

    def _order(self, item: pytest.Item) -> tuple[int, int]:
        """Candidate by candidate, so that one is loaded at a time; the self-check before all."""
        names = [c.name for c in self._release.candidates]
        subject, gate = _subject(item), _gate_of(item)
        return (names.index(subject) if subject in names else -1, list(Gate).index(gate))

    def _exit_status(self, session: pytest.Session) -> int:
        results = self._session.results
        verdicts = [result.verdict for result in results.values()]
        if any(key not in results for key in self._session.planned):
            verdicts.append(Verdict.INCONCLUSIVE)  # planned, but -x or an exit kept it from running
        policy = self._release.statistics.policy
        if session.testsfailed > self._explained or not verdicts:
            return pytest.ExitCode.TESTS_FAILED if session.testsfailed else pytest.ExitCode.OK
        return exit_status(combine(verdicts), policy)


def gate_run(item: pytest.Item, candidate: str) -> GateRun:
    """The gate of this item, known to the hooks above under the item's stash."""
    session = item.config.stash[SESSION_KEY]
    gate = _gate_of(item)
    run = GateRun(gate, session.subject(gate, candidate), session)
    item.stash[GATE_KEY] = run
    return run


class ResumedVerdicts:
    """Gates that the run being resumed had decided are not measured again."""

    def __init__(self, session: InfoptSession) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        __tracebackhide__ = True
        gate = pyfuncitem.stash.get(GATE_KEY, None)
        earlier = None if gate is None else self._session.decided_earlier(gate)
        if earlier is None:
            return None
        self._session.finish(earlier)
        raise_unless_passed(earlier, self._session.release.statistics.policy)
        return True


class XdistHooks:
    """Joins an xdist controller and its workers: one run folder, one description of the models."""

    def __init__(self, session: InfoptSession) -> None:
        self._session = session

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["infopt_directory"] = str(self._session.directory)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        # A worker that crashed leaves no output; its items are reported as failed by xdist.
        output = getattr(node, "workeroutput", None) or {}
        for candidate, description in output.get("infopt_description", {}).items():
            self._session.learn(candidate, description)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        output = getattr(session.config, "workeroutput", None)
        if output is not None:
            output["infopt_description"] = self._session.description


def _result_of(report: pytest.TestReport) -> GateResult | None:
    """The result that a phase of an item brought; a teardown that went well only carries it."""
    if report.when == "call" or not report.passed:
        return gate_from_properties(report.user_properties)
    return None


def _is_for_infopt(item: pytest.Item) -> bool:
    """Whether a test that is no gate runs: marked ``infopt``, or a property of a suite."""
    return suite_of(item) is not None or item.get_closest_marker("infopt") is not None


def _is_gate(item: pytest.Item) -> bool:
    return item.get_closest_marker("infopt_gate") is not None


def _gate_of(node: pytest.Item) -> Gate:
    marker = node.get_closest_marker("infopt_gate")
    assert marker is not None
    return Gate(marker.args[0])


def _subject(item: pytest.Item) -> str:
    """The candidate of a gate item; empty where no candidate has a budget for the gate."""
    callspec = getattr(item, "callspec", None)
    name = callspec.params.get("infopt_gate") if callspec is not None else None
    return name if isinstance(name, str) else ""
