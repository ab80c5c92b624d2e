"""Reports are found by name, and one that raises keeps no other from being written."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from report_strategies import runs

from pytest_infopt.report import registry
from pytest_infopt.report.document import read_result
from pytest_infopt.report.registry import ReportSpec, report_lines, reports, write_reports
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Verdict


def _raise(*_: object) -> list[str]:
    raise RuntimeError("disk\nfull")


def _raise_on_writing(run: RunResult, directory: Path) -> None:
    _raise()


BROKEN = ReportSpec("broken", "raises", write=_raise_on_writing, lines=_raise)
NO_REPORT = object()


def test_ours_are_registered_and_the_terminal_comes_first() -> None:
    assert list(reports()) == [
        "terminal", "badge", "github-annotations", "github-summary", "html", "json", "json-lines",
        "markdown", "model-card",
    ]  # fmt: skip


def test_a_report_does_something() -> None:
    with pytest.raises(ValueError, match="neither write nor lines"):
        ReportSpec("empty", "does nothing")


@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(run=runs)
def test_a_report_that_raises_keeps_no_other_from_being_written(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    ours = registry.registered(registry.GROUP)
    theirs = {
        name: EntryPoint(name, f"{__name__}:{attribute}", registry.GROUP)
        for name, attribute in (("aaa", "BROKEN"), ("bbb", "NO_REPORT"))
    }
    with monkeypatch.context() as patch:
        patch.setattr(registry, "registered", lambda group: {**theirs, **ours})
        written = write_reports(run, tmp_path)
        lines = report_lines(run, 80)
    failures = written.faults[len(run.faults) :]
    assert failures[0] == "report aaa failed: RuntimeError: disk full"
    assert failures[1].startswith("report bbb failed: TypeError")
    assert len(failures) == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        "badge.json", "gates.jsonl", "model-card.md", "report.html", "result.json", "summary.md",
    }  # fmt: skip
    # Every report that could be written tells of those that could not.
    assert read_result(tmp_path / "result.json") == written
    assert written.verdict in (Verdict.ERROR, Verdict.FAIL)
    assert lines.count("report aaa failed: RuntimeError: disk full") == 1
