"""``gates.jsonl``: a line of strict JSON for each metric, to be gathered over many runs.

A line has the fields of a row of ``gates`` in result.json, and says of which run it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..results.run_result import RunResult
from ..strict_json import dumps
from .document import result_document
from .registry import ReportSpec

_OF_RUN = ("schema", "run_id", "started", "version")


def json_lines(run: RunResult) -> Iterator[str]:
    """The lines, without line feeds."""
    document = result_document(run)
    told = {name: document[name] for name in _OF_RUN}
    yield from (dumps({**told, **row}) for row in document["gates"])


def write_lines(run: RunResult, directory: Path) -> None:
    """gates.jsonl in the run's folder."""
    lines = "".join(f"{line}\n" for line in json_lines(run))
    (directory / "gates.jsonl").write_text(lines, encoding="utf-8")


REPORT = ReportSpec("json-lines", "gates.jsonl, a line for each metric", write=write_lines)
