"""Baselines: limits that follow the best result so far, in a JSON file meant to be committed.

Tightening is automatic, loosening takes a reason that stays in the file. A limit is kept for each
device, candidate and metric, and with it where it comes from: a result from another model, corpus,
dtype or device is not comparable, and `mismatch` names why.

A limit that is tightened after each of k runs is the tightest of k confidence bounds: it lies
beyond the truth with a probability of up to k times one bound's error rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from ..errors import InfoptError
from ..gates.registry import metrics
from ..metrics.metric import Rule
from ..results.gate_result import GateResult
from ..results.verdict import Judgement, Verdict
from ..strict_json import dumps, loads, write_atomically

SCHEMA = 1
Key = tuple[str, str, str]  # device, candidate, metric

# What has to be equal for a limit to mean the same; the run, its date and version may differ.
_COMPARED = ("model_fingerprint", "corpus_fingerprint", "dtype", "device")


class BaselineError(InfoptError):
    """The baselines file is damaged, or a change of it is not allowed."""


@dataclass(frozen=True)
class Provenance:
    """Where a limit comes from.

    ``model_fingerprint`` is the reference's: candidates may change from release to release, that is
    what the limits are for. ``date`` is ISO 8601, ``version`` pytest-infopt's, ``software`` the
    other versions, as people read them.
    """

    run_id: str
    date: str
    version: str
    model_fingerprint: str
    corpus_fingerprint: str
    dtype: str
    device: str
    software: str = ""


@dataclass(frozen=True)
class Loosening:
    """A limit that was replaced by a looser one, by which run, and why."""

    date: str
    run_id: str
    old_limit: float
    new_limit: float
    reason: str


@dataclass(frozen=True)
class Entry:
    """The limit on a metric, in the metric's unit."""

    candidate: str
    metric: str
    limit: float
    provenance: Provenance
    history: tuple[Loosening, ...] = ()

    @property
    def key(self) -> Key:
        return (self.provenance.device, self.candidate, self.metric)


class Baselines:
    """The limits of one baselines file; changes reach the file by `save` alone."""

    def __init__(self, path: Path, entries: list[Entry] | None = None) -> None:
        self.path = path
        self._entries: dict[Key, Entry] = {}
        for entry in entries or []:
            if entry.key in self._entries:
                raise BaselineError(f"two limits for {_name(entry.key)}; keep one of them")
            self._entries[entry.key] = entry

    @classmethod
    def load(cls, path: Path) -> Self:
        """The file's limits, none where there is no file; BaselineError for a damaged one."""
        if not path.exists():
            return cls(path)
        try:
            document = loads(path.read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA:
                raise BaselineError(f"schema {document['schema']!r}; this version reads {SCHEMA}")
            return cls(path, [_entry(row) for row in document["entries"]])
        except OSError as error:
            raise BaselineError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, BaselineError) as error:
            kind = "" if isinstance(error, BaselineError) else f"{type(error).__name__}: "
            raise BaselineError(
                f"{path} is not a baselines file ({kind}{error}); restore it from version control, "
                "or delete it to begin anew"
            ) from error

    def save(self) -> None:
        """Write the file in one step; equal limits give equal bytes.

        Raises BaselineError where that cannot be done.
        """
        try:
            write_atomically(self.path, self.to_text())
        except OSError as error:
            raise BaselineError(
                f"{self.path} cannot be written: {error.strerror or error}"
            ) from error

    def to_text(self) -> str:
        """The file's text: entries by device, candidate and metric, one number per line."""
        rows = [asdict(self._entries[key]) for key in sorted(self._entries)]
        return dumps({"schema": SCHEMA, "entries": rows}, indent=2) + "\n"

    @property
    def entries(self) -> list[Entry]:
        """All entries in the file's order."""
        return [self._entries[key] for key in sorted(self._entries)]

    def entry_for(self, device: str, candidate: str, metric: str) -> Entry | None:
        """The entry, None where this device has none."""
        return self._entries.get((device, candidate, metric))

    @staticmethod
    def mismatch(entry: Entry, provenance: Provenance) -> list[str]:
        """The fields of `Provenance` in which the two differ and so cannot be compared."""
        return [
            name
            for name in _COMPARED
            if getattr(entry.provenance, name) != getattr(provenance, name)
        ]

    def tighten(self, result: GateResult, provenance: Provenance) -> list[Entry]:
        """Move limits to the far bound of what was measured, wherever that is tighter.

        Only metrics that passed count. The present limit is the entry's, or the budget where there
        is no entry yet. Returns the entries that changed. Raises BaselineError, and changes
        nothing, where an entry is not comparable with this run.
        """
        changed = [
            entry
            for judgement in result.judgements
            if result.error is None
            and (entry := self._tightened(result.candidate, judgement, provenance)) is not None
        ]
        self._entries.update({entry.key: entry for entry in changed})
        return changed

    def loosen(
        self, candidate: str, metric: str, limit: float, provenance: Provenance, *, reason: str
    ) -> Entry:
        """Replace an entry's limit by a looser one, or set it anew where this run is not comparable
        with it; the reason stays in the entry's history.

        Raises BaselineError without a reason, without an entry, and for a limit that is not looser.
        """
        key = (provenance.device, candidate, metric)
        if not reason.strip():
            raise BaselineError(
                f"loosening {_name(key)} needs a reason: say why worse is right now"
            )
        entry = self._entries.get(key)
        if entry is None:
            raise BaselineError(f"there is no limit for {_name(key)} that could be loosened")
        if not math.isfinite(limit):
            raise BaselineError(f"limit {limit} for {_name(key)}: a limit is a finite number")
        looser = limit != entry.limit and not is_tighter(metric, limit, entry.limit)
        if not (looser or self.mismatch(entry, provenance)):
            raise BaselineError(
                f"limit {limit:g} for {_name(key)} is not looser than {entry.limit:g}; "
                "tighten needs no reason"
            )
        step = Loosening(provenance.date, provenance.run_id, entry.limit, limit, reason.strip())
        new = replace(entry, limit=limit, provenance=provenance, history=(*entry.history, step))
        self._entries[key] = new
        return new

    def expire(self, gone: Callable[[Entry], bool]) -> list[Entry]:
        """Take the entries out that are ``gone``; returns them in the file's order."""
        expired = [entry for entry in self.entries if gone(entry)]
        for entry in expired:
            del self._entries[entry.key]
        return expired

    def _tightened(
        self, candidate: str, judgement: Judgement, provenance: Provenance
    ) -> Entry | None:
        """The entry with a tighter limit, or None where the judgement gives none."""
        bound = far_bound(judgement)
        if judgement.verdict is not Verdict.PASS or bound is None:
            return None
        key = (provenance.device, candidate, judgement.metric)
        entry = self._entries.get(key)
        if entry is not None and (differing := self.mismatch(entry, provenance)):
            raise BaselineError(
                f"the limit for {_name(key)} comes from another {', '.join(differing)} "
                f"(run {entry.provenance.run_id}); loosen it with a reason to set it anew"
            )
        present = judgement.budget if entry is None else entry.limit
        if present is not None and not is_tighter(judgement.metric, bound, present):
            return None
        history = () if entry is None else entry.history
        return Entry(candidate, judgement.metric, bound, provenance, history)


def far_bound(judgement: Judgement) -> float | None:
    """The worst value that the measurement leaves possible: the interval's end on the bad side.

    A metric measured exactly is its own bound. None for a metric without interval, with an infinite
    one, or of a gate of the user's own, whose direction is not known.
    """
    metric = metrics().get(judgement.metric)
    if metric is None:
        return None
    if judgement.interval is not None:
        bound: float | None = judgement.interval[0 if metric.higher_is_better else 1]
    else:
        bound = judgement.value if metric.rule is Rule.EXACT else None
    return bound if bound is not None and math.isfinite(bound) else None


def is_tighter(metric: str, limit: float, present: float) -> bool:
    """Whether the limit allows less than the present one."""
    return limit > present if metrics()[metric].higher_is_better else limit < present


def _name(key: Key) -> str:
    device, candidate, metric = key
    return f"{metric} of {candidate} on {device}"


def _entry(row: dict[str, Any]) -> Entry:
    limit, metric = float(row["limit"]), str(row["metric"])
    if not math.isfinite(limit):
        raise ValueError(f"the limit on {metric} of {row['candidate']} is {limit}, not a number")
    if metric not in metrics():
        raise ValueError(f"no metric is called {metric!r}; remove its entry")
    _require_fields(row, Entry)
    _require_fields(row["provenance"], Provenance)
    return Entry(
        candidate=row["candidate"],
        metric=metric,
        limit=limit,
        provenance=Provenance(**row["provenance"]),
        history=tuple(Loosening(**step) for step in row["history"]),
    )


def _require_fields(row: dict[str, Any], of: type[Entry | Provenance]) -> None:
    if unknown := set(row) - {field.name for field in fields(of)}:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
