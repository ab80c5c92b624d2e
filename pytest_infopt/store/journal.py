"""The run journal: one JSON line per thing that happened, written as it happens, never rewritten.

A run that is killed leaves complete lines and at most one torn last one, so nothing measured before
it is lost. Each process of a run writes a file of its own; `RunRecords.read` merges them.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Self

from ..errors import InfoptError
from ..results.gate_result import GateResult
from ..results.sample import Sample
from ..strict_json import dumps, loads

RUN, COLLECTION, SAMPLE, ITEM = "run", "collection", "sample", "item"
_FIELDS: dict[str, dict[str, Any]] = {
    RUN: {"fingerprint": str, "seed": int, "version": str},
    COLLECTION: {"gate": str, "candidate": str, "phase": str, "terms": dict[str, Any]},
    SAMPLE: {"gate": str, "candidate": str, "phase": str, "index": int, "sample": Sample},
    ITEM: {"result": dict[str, Any]},
}
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class JournalError(InfoptError):
    """A journal is damaged in its middle, or holds lines of more than one release."""


class Journal:
    """Appends records to one file; the last line of a killed predecessor is repaired first.

    A record is on its way to the disk when `write` returns: it survives the death of this process,
    though not a power cut (no fsync per line: a slow disk would slow the timings next to it).

    A disk that takes no more costs the run nothing that it measures: ``failure`` then says what
    happened, and nothing is written any more.
    """

    def __init__(self, path: Path) -> None:
        """The file is made with the first record."""
        self.path = path
        self.failure = ""
        self._stream: BinaryIO | None = None

    def write(self, kind: str, **fields: Any) -> None:
        """Append ``{"kind": kind, **fields}``; fields hold JSON data (see `strict_json.dumps`)."""
        line = dumps({"kind": kind, **fields}).encode("ascii") + b"\n"
        if self.failure:
            return
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                _repair_last_line(self.path)
                # Unbuffered: what a full disk has refused must not be tried again at the end.
                self._stream = self.path.open("ab", buffering=0)
            rest = memoryview(line)
            while rest:  # a write may take a part
                rest = rest[self._stream.write(rest) :]
        except OSError as error:
            self.failure = (
                f"{self.path}: {error.strerror or error}; what was measured since is judged, but a "
                "resumed run would have to measure it again"
            )

    def write_run(self, fingerprint: str, seed: int, version: str) -> None:
        """What the run gates; a resumed run compares it with its own."""
        self.write(RUN, fingerprint=fingerprint, seed=seed, version=version)

    def write_collection(
        self, gate: str, candidate: str, phase: str, terms: dict[str, Any]
    ) -> None:
        """The terms on which the samples of this phase of the gate are judged."""
        self.write(COLLECTION, gate=gate, candidate=candidate, phase=phase, terms=terms)

    def write_sample(
        self, gate: str, candidate: str, phase: str, index: int, sample: Sample
    ) -> None:
        """A measured sample, the index-th of this phase of the gate."""
        fields = {"gate": gate, "candidate": candidate, "phase": phase, "index": index}
        self.write(SAMPLE, **fields, sample=sample.to_json())

    def write_item(self, result: GateResult) -> None:
        """A gate that came to its end."""
        self.write(ITEM, result=result.to_json())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The records of one file, in order. A torn last line (no line feed, not JSON) is left out.

    Raises JournalError naming file and line for anything else that is not a record.
    """
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()  # b"" after a complete last line
    records = [_record(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
    if _is_complete(torn):  # killed between the record and its line feed
        records.append(_record(torn, f"{path}, line {len(lines) + 1}"))
    return records


@dataclass(frozen=True)
class RunRecords:
    """Everything that the journals of one run hold."""

    records: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The journals of all processes of a run, merged; none where the folder has none."""
        paths = sorted(directory.glob("journal*.jsonl"))
        return cls([record for path in paths for record in read_journal(path)])

    @property
    def run(self) -> dict[str, Any] | None:
        """The ``run`` record. Raises JournalError when processes disagree on what they gated."""
        found = {json.dumps(r, sort_keys=True): r for r in self.records if r["kind"] == RUN}
        if len(found) > 1:
            raise JournalError(
                f"the journals belong to {len(found)} different runs: {', '.join(found)}; "
                "start a new run instead of resuming"
            )
        return next(iter(found.values()), None)

    def collections(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        """The terms of each collection by gate, candidate and phase, in the order of beginning;
        those of a resumed run count."""
        found = (record for record in self.records if record["kind"] == COLLECTION)
        return {(r["gate"], r["candidate"], r["phase"]): r["terms"] for r in found}

    def samples(self, gate: str, candidate: str, phase: str | None = None) -> list[Sample]:
        """The samples of a gate, by index, up to the first index that is missing.

        A gap would shift what comes after it: a resumed run counts on sample i being the i-th. Of
        two records with one index the later counts. Without ``phase``: all phases, one after
        another.
        """
        phases: dict[str, dict[int, dict[str, Any]]] = {}
        for r in self.records:
            if r["kind"] != SAMPLE or (r["gate"], r["candidate"]) != (gate, candidate):
                continue
            if phase in (None, r["phase"]):
                phases.setdefault(r["phase"], {})[r["index"]] = r["sample"]
        return [Sample.from_json(kept) for found in phases.values() for kept in _prefix(found)]

    def finished(self) -> dict[tuple[str, str], GateResult]:
        """The result of each gate that came to its end, by gate and candidate; the last counts."""
        results = [GateResult.from_json(r["result"]) for r in self.records if r["kind"] == ITEM]
        return {(result.gate, result.candidate): result for result in results}


def journal_path(directory: Path, worker: str = "main") -> Path:
    """Where a process of the run writes: ``journal.jsonl``, under xdist ``journal-gw0.jsonl``."""
    return directory / ("journal.jsonl" if worker == "main" else f"journal-{worker}.jsonl")


def new_run_id(now: datetime | None = None) -> str:
    """An id that sorts by time (UTC) and, by four random bytes, differs between machines."""
    moment = datetime.now(UTC) if now is None else now.astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}"


def run_directory(report_dir: Path, run_id: str) -> Path:
    """``report_dir/runs/run_id``; raises ValueError for an id that is no plain folder name."""
    if not _RUN_ID.fullmatch(run_id):
        raise ValueError(
            f"run id {run_id!r} is no folder name: letters, digits, '.', '_', '-', "
            "the first a letter or a digit"
        )
    return report_dir / "runs" / run_id


def latest_run(report_dir: Path) -> Path | None:
    """The folder of the run that started last (its id sorts last) and left a journal, or None."""
    folders = {path.parent for path in (report_dir / "runs").glob("*/journal*.jsonl")}
    return max(folders, key=lambda folder: folder.name, default=None)


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = loads(line.decode("ascii"))
        _check(record)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        why = "; ".join(str(error).split("\n")[1:3]) if "\n" in str(error) else error
        shown = ascii(line[:60].decode("utf-8", "replace"))
        raise JournalError(
            f"{where} is not a journal record ({why}): {shown}; only the last line of a killed "
            "run may be torn. Start a new run, or delete the line to resume without it"
        ) from error
    return record


def _check(record: dict[str, Any]) -> None:
    """Raise for a record that cannot be read back as what it says it is."""
    # Not at the top: pydantic takes 0.1 s to import, and a run that resumes none reads no journal.
    from pydantic import TypeAdapter

    for name, kind in {"kind": str, **_FIELDS.get(record["kind"], {})}.items():
        TypeAdapter(kind).validate_python(record[name])
    if record["kind"] == ITEM:
        TypeAdapter(GateResult).validate_python(asdict(GateResult.from_json(record["result"])))


def _is_complete(line: bytes) -> bool:
    """Whether the line is a record: no proper beginning of a JSON object is itself JSON."""
    try:
        loads(line.decode("ascii"))
    except ValueError:
        return False
    return True


def _repair_last_line(path: Path) -> None:
    """End the file with a line feed, or the next record would be written onto a torn line."""
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    torn = content[end:]
    with path.open("rb+") as stream:
        if torn and _is_complete(torn):
            stream.seek(0, 2)
            stream.write(b"\n")
        else:
            stream.truncate(end)


def _prefix(found: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    length = 0
    while length in found:
        length += 1
    return [found[index] for index in range(length)]
