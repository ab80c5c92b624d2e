"""``badge.json``: the verdict as a badge, for https://img.shields.io/endpoint?url=….

The form is shields' own: https://shields.io/badges/endpoint-badge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..results.run_result import RunResult
from ..results.verdict import Verdict
from ..strict_json import dumps
from .registry import ReportSpec
from .wording import tally_text

_COLOURS = {
    Verdict.PASS: "brightgreen",
    Verdict.FAIL: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.ERROR: "lightgrey",
}


def badge(run: RunResult) -> dict[str, Any]:
    """The badge as data; its message begins with the verdict of the run."""
    tally = tally_text([gate.verdict for gate in run.gates])
    return {
        "schemaVersion": 1,
        "label": "infopt",
        "message": f"{run.verdict} ({tally})",
        "color": _COLOURS[run.verdict],
        "isError": run.verdict is Verdict.ERROR,
    }


def write_badge(run: RunResult, directory: Path) -> None:
    """badge.json in the run's folder."""
    (directory / "badge.json").write_text(dumps(badge(run)) + "\n", encoding="utf-8")


REPORT = ReportSpec("badge", "badge.json, for shields.io", write=write_badge)
