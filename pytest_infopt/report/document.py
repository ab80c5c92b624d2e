"""``result.json``: a run as one strict JSON document, versioned, and read back without loss.

``gates`` is flat, one row per metric, for whoever loads the file into a table; ``items`` holds what
belongs to a whole gate; a row's ``item`` is the index of its gate there. The form is described
field by field in ``schema/result.schema.json`` (JSON Schema, draft 2020-12).
"""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import InfoptError
from ..results.gate_result import GateResult
from ..results.run_result import SCHEMA, RunResult
from ..results.verdict import combine
from ..strict_json import dumps, loads, write_atomically
from .registry import ReportSpec
from .wording import known_metric

_RUN_FIELDS = [field.name for field in fields(RunResult) if field.name != "gates"]


class ResultFileError(InfoptError):
    """A result file is missing, damaged, of another schema, or contradicts itself."""


def write_result(run: RunResult, path: Path) -> None:
    """Write ``result.json``; the file is replaced in one step."""
    write_atomically(path, dumps(result_document(run), indent=1) + "\n")


def read_result(path: Path) -> RunResult:
    """Read ``result.json``; raises ResultFileError, which names the file and what is wrong."""
    try:
        return result_from_document(loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ResultFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ResultFileError(
            f"{path}: not a result of schema {SCHEMA} ({type(error).__name__}: {error}); "
            "validate it against result.schema.json"
        ) from error
    except (ValueError, ResultFileError) as error:
        raise ResultFileError(f"{path}: {error}") from error


def result_document(run: RunResult) -> dict[str, Any]:
    """The run as the dictionary that ``result.json`` holds."""
    items = [gate.to_json() for gate in run.gates]
    rows = [_row(n, item, row) for n, item in enumerate(items) for row in item.pop("judgements")]
    return {
        "schema": SCHEMA,
        **{name: getattr(run, name) for name in _RUN_FIELDS},
        "verdict": run.verdict.value,
        "gates": rows,
        "items": items,
    }


def result_from_document(document: dict[str, Any]) -> RunResult:
    """The run of `result_document`; raises ResultFileError when its parts contradict each other."""
    if document["schema"] != SCHEMA:
        raise ResultFileError(
            f"schema {document['schema']!r}; this version reads schema {SCHEMA}: use the version "
            f"of pytest-infopt that wrote the file ({document.get('version', 'unknown')})"
        )
    count = len(document["items"])
    if strays := [row["item"] for row in document["gates"] if not 0 <= row["item"] < count]:
        raise ResultFileError(f"rows of gates name items {strays}; there are {count} items")
    gates = [_gate(document, index) for index in range(count)]
    run = RunResult(gates=gates, **{n: document[n] for n in _RUN_FIELDS if n in document})
    # In files without this key, gates that were not run do not bear on the verdict.
    verdict = run.verdict if "left_out" in document else combine([g.verdict for g in gates])
    _require_equal("verdict of the run", document["verdict"], verdict)
    return run


def result_schema() -> dict[str, Any]:
    """The JSON Schema of ``result.json``."""
    resource = files(__package__).joinpath("schema", "result.schema.json")
    schema: dict[str, Any] = json.loads(resource.read_text(encoding="utf-8"))
    return schema


def _row(index: int, item: dict[str, Any], judgement: dict[str, Any]) -> dict[str, Any]:
    metric = known_metric(judgement["metric"])
    return {
        "item": index,
        **{name: item[name] for name in ("gate", "candidate", "seconds")},
        "unit": metric.unit.value if metric else None,
        "higher_is_better": metric.higher_is_better if metric else None,
        **judgement,
    }


_ROW_ONLY = frozenset({"item", "gate", "candidate", "unit", "higher_is_better", "seconds"})


def _gate(document: dict[str, Any], index: int) -> GateResult:
    item = document["items"][index]
    rows = [row for row in document["gates"] if row["item"] == index]
    for row in rows:
        for name in ("gate", "candidate"):
            _require_equal(f"{name} of a row of item {index}", row[name], item[name])
    judgements = [
        {name: value for name, value in row.items() if name not in _ROW_ONLY} for row in rows
    ]
    gate = GateResult.from_json({**item, "judgements": judgements})
    where = f"verdict of {gate.gate} of {gate.candidate}"
    _require_equal(where, item["verdict"], gate.verdict)
    return gate


def _require_equal(what: str, written: object, expected: object) -> None:
    if written != expected:
        raise ResultFileError(
            f"{what} is {written!r}, but the rest of the file says {str(expected)!r}: "
            "it was edited or damaged; run the gate again"
        )


def _write(run: RunResult, directory: Path) -> None:
    write_result(run, directory / "result.json")


REPORT = ReportSpec("json", "result.json, of a documented schema", write=_write)
