"""The hooks of a run under ``--infopt`` from the first gate to the reports."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest

from ..errors import InfoptError, InvalidComparisonError, NotSupportedError
from ..report.registry import report_lines, write_reports
from ..results.run_result import RunResult
from ..results.verdict import Verdict
from .exit_status import exit_status
from .item_results import result_of
from .progress import Progress
from .running_gate import GATE_KEY
from .session import InfoptSession

_DECIDED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)  # the rest is pytest's own to say


class InfoptHooks:
    """pytest's hooks, bound to one run."""

    def __init__(self, config: pytest.Config, session: InfoptSession) -> None:
        self._session = session
        self._progress = Progress(config)
        self._is_controller = not hasattr(config, "workerinput")
        self._begun = False
        self._run: RunResult | None = None  # once it has ended
        session.on_progress = self._progress.show

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Begin what --collect-only, and a collection that failed, leave undone."""
        option = session.config.option
        stopped = session.testsfailed and not option.continue_on_collection_errors
        if option.collectonly or stopped:
            return
        try:
            self._session.begin()
        except InfoptError as error:
            raise pytest.UsageError(str(error)) from error
        self._begun = True

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        """Tell a verdict from a broken measurement, and keep both."""
        __tracebackhide__ = True
        gate = pyfuncitem.stash.get(GATE_KEY, None)
        if gate is None:
            return (yield)
        try:
            return (yield)
        except (pytest.fail.Exception, pytest.skip.Exception) as outcome:
            if (gate.spec.name, gate.candidate.name) not in self._session.results:
                gate.error(str(outcome))  # not the gate's own: a plugin that ends tests, say
            raise
        except InvalidComparisonError as error:
            gate.abstain(str(error))
            return True
        except NotSupportedError as error:
            gate.not_run(str(error))
            return True
        except InfoptError as error:
            gate.error(str(error))
            message = f"harness error, no verdict on {gate.candidate.name}: {error}"
            raise pytest.fail.Exception(message, pytrace=False) from None  # it says all of it
        except Exception as error:
            gate.error(f"{type(error).__name__}: {error}")
            raise
        finally:
            self._progress.clear()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        gate = result_of(report)
        if gate is not None:
            self._session.gather(gate)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        self._session.close()
        if not self._is_controller or not self._begun:
            return
        run = self._session.run_result()
        try:
            self._session.baselines.update(run.gates)
        except InfoptError as error:
            run = replace(run, faults=[*run.faults, str(error)])
        run = ended(run, exitstatus)
        self._run = write_reports(run, self._session.directory)
        self._session.end()
        if exitstatus in _DECIDED:
            policy = self._session.release.statistics.policy
            session.exitstatus = exit_status(self._run, policy)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if self._run is None:
            return
        terminalreporter.section("infopt")
        lines = report_lines(self._run, config.get_terminal_writer().fullwidth)
        for line in [*lines, f"reports: {self._session.directory}"]:
            terminalreporter.write_line(line)


def ended(run: RunResult, exitstatus: int) -> RunResult:
    """The run with what pytest's own exit status says of it: whatever keeps that from being 0 keeps
    the run from passing, too."""
    if exitstatus == pytest.ExitCode.INTERNAL_ERROR:
        return replace(run, faults=[*run.faults, "pytest ended with an internal error"])
    if exitstatus not in _DECIDED and not run.not_run:
        return replace(run, not_run=[f"the run was interrupted (exit status {int(exitstatus)})"])
    if exitstatus == pytest.ExitCode.TESTS_FAILED and run.verdict is Verdict.PASS:
        return replace(run, faults=[*run.faults, "pytest counted a failure that nothing explains"])
    return run
