"""The hooks of a run under ``--infopt`` from the first gate to the reports."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from ..errors import InfoptError, InvalidComparisonError, NotSupportedError
from ..report.junit import gate_from_properties
from ..report.registry import report_lines, write_reports
from ..results.gate_result import GateResult
from ..results.verdict import Verdict, combine
from .exit_status import exit_status
from .gate_items import GATE_KEY
from .progress import Progress
from .session import InfoptSession


class InfoptHooks:
    """pytest's hooks, bound to one run."""

    def __init__(self, config: pytest.Config, session: InfoptSession) -> None:
        self._session = session
        self._progress = Progress(config)
        self._is_controller = not hasattr(config, "workerinput")
        self._explained = 0  # failed reports that are a verdict's
        self._unwritten: list[str] = []  # what kept reports of the run from being written
        session.on_progress = self._progress.show

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
        except NotSupportedError as error:
            gate.not_run(str(error))
            return True
        except InfoptError as error:
            gate.error(str(error))
            pytest.fail(
                f"harness error, no verdict on {gate.candidate.name}: {error}", pytrace=False
            )
        except Exception as error:
            gate.error(f"{type(error).__name__}: {error}")
            raise
        finally:
            self._progress.clear()

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
        self._unwritten = write_reports(run, self._session.directory)
        self._session.baselines.update(run.gates)
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            session.exitstatus = self._exit_status(session)

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if config.option.collectonly or not self._is_controller:
            return
        run = self._session.run_result()
        terminalreporter.section("infopt")
        lines = report_lines(run, config.get_terminal_writer().fullwidth)
        for line in [*lines, f"reports: {self._session.directory}", *self._unwritten]:
            terminalreporter.write_line(line)

    def _exit_status(self, session: pytest.Session) -> int:
        results = self._session.results
        verdicts = [result.verdict for result in results.values()]
        if self._unwritten:
            verdicts.append(Verdict.ERROR)
        if any(key not in results for key in self._session.planned):
            verdicts.append(Verdict.INCONCLUSIVE)  # planned, but -x or an exit kept it from running
        policy = self._session.release.statistics.policy
        if session.testsfailed > self._explained or not verdicts:
            return pytest.ExitCode.TESTS_FAILED if session.testsfailed else pytest.ExitCode.OK
        return exit_status(combine(verdicts), policy)


def _result_of(report: pytest.TestReport) -> GateResult | None:
    """The result that a phase of an item brought; a teardown that went well only carries it."""
    if report.when == "call" or not report.passed:
        return gate_from_properties(report.user_properties)
    return None
