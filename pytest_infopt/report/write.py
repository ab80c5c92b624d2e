"""Every report of a run, written into its folder."""

from __future__ import annotations

import os
from pathlib import Path

from ..results.run_result import RunResult
from .annotations import workflow_commands
from .document import write_result
from .markdown import markdown_summary


def write_reports(run: RunResult, directory: Path) -> None:
    """result.json and summary.md; on GitHub Actions the step's summary and annotations too."""
    directory.mkdir(parents=True, exist_ok=True)
    write_result(run, directory / "result.json")
    summary = markdown_summary(run)
    (directory / "summary.md").write_text(summary, encoding="utf-8")
    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if step_summary:
        with open(step_summary, "a", encoding="utf-8") as stream:
            stream.write(summary)


def annotation_lines(run: RunResult) -> list[str]:
    """Workflow commands for the log, where a GitHub Actions runner reads it; else none."""
    return workflow_commands(run) if os.environ.get("GITHUB_ACTIONS") == "true" else []
