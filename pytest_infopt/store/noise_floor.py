"""The noise floor: what a metric shows when nothing was changed, and limits that lie below it.

A limit is compared by its margin: how far it lets a candidate be from one that is equal to the
reference. A floor is such a margin, measured on one device with one reference; another device or
reference has another. The file is JSON, meant to be kept beside the baselines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from ..errors import InfoptError
from ..metrics.budget import Budget, format_value
from ..metrics.metric import Metric, Unit
from ..results.verdict import Judgement, Verdict
from ..strict_json import dumps, loads, write_atomically

SCHEMA = 1
FILE = "noise-floor.json"


class NoiseFloorError(InfoptError):
    """The file of noise floors is damaged, or cannot be written."""


@dataclass(frozen=True)
class Floor:
    """``margin`` is the least that a limit on ``metric`` may allow, ``proposed`` a limit that is
    far enough off; ``cause`` is what was changed when the noise was largest. ``dtype`` is that of
    the candidates whose limits it bounds, "" for all."""

    metric: str
    dtype: str
    margin: float
    proposed: float
    cause: str
    device: str
    model_fingerprint: str
    run_id: str
    date: str


class NoiseFloors:
    """The floors of one file."""

    def __init__(self, path: Path, floors: Iterable[Floor] = ()) -> None:
        self.path = path
        self._floors = list(floors)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The file's floors, none where there is no file; NoiseFloorError for a damaged one."""
        if not path.exists():
            return cls(path)
        try:
            document = loads(path.read_text(encoding="utf-8"))
            if document["schema"] != SCHEMA:
                raise ValueError(f"schema {document['schema']!r}; this version reads {SCHEMA}")
            return cls(path, [_floor(row) for row in document["floors"]])
        except OSError as error:
            raise NoiseFloorError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise NoiseFloorError(
                f"{path} is no file of noise floors ({type(error).__name__}: {error}); delete it, "
                "and measure anew with --infopt-calibrate"
            ) from error

    def keep(self, floors: Iterable[Floor]) -> None:
        """Put floors in the place of those of the same device, metric and dtype; write the file."""
        new = {_key(floor): floor for floor in floors}
        kept = {_key(floor): floor for floor in self._floors} | new
        self._floors = [kept[key] for key in sorted(kept)]
        rows = [asdict(floor) for floor in self._floors]
        try:
            write_atomically(self.path, dumps({"schema": SCHEMA, "floors": rows}, indent=2) + "\n")
        except OSError as error:
            raise NoiseFloorError(
                f"{self.path} cannot be written: {error.strerror or error}"
            ) from error

    def of(self, metric: str, device: str, dtype: str, model_fingerprint: str) -> Floor | None:
        """The largest floor of a metric that was measured with this reference on this device."""
        found = [
            floor
            for floor in self._floors
            if (floor.metric, floor.device) == (metric, device)
            and floor.model_fingerprint == model_fingerprint
            and floor.dtype in ("", dtype)
        ]
        return max(found, key=lambda floor: floor.margin, default=None)


def margin_of(metric: Metric, limit: float) -> float:
    """How far a limit lets a candidate be from an equal one."""
    if metric.higher_is_better:
        return 1.0 - limit
    return limit - 1.0 if metric.unit is Unit.RATIO else limit


def limit_of(metric: Metric, margin: float) -> float:
    """The limit of that margin, rounded to two digits, away from the floor."""
    if not margin:
        return 1.0 if metric.unit is Unit.RATIO or metric.higher_is_better else 0.0
    digit = 10.0 ** (math.floor(math.log10(margin)) - 1)
    rounded = math.ceil(margin / digit) * digit
    if metric.higher_is_better:
        return round(1.0 - rounded, 12)
    return round(1.0 + rounded, 12) if metric.unit is Unit.RATIO else float(f"{rounded:.2g}")


def refusal(budget: Budget, floor: Floor | None) -> str:
    """Why a limit says nothing about a candidate; "" where its margin is above the floor."""
    if floor is None or margin_of(budget.metric, budget.limit) >= floor.margin:
        return ""
    least, proposed = (
        format_value(budget.metric, limit)
        for limit in (limit_of(budget.metric, floor.margin), floor.proposed)
    )
    return (
        f"{budget.metric.name} {budget.describe()} is below the noise floor of {floor.device}: "
        f"{least} with nothing changed but the {floor.cause} (run {floor.run_id}, {floor.date}); "
        f"a limit of {proposed} is proposed"
    )


def above_noise(judgement: Judgement, budget: Budget, floor: Floor | None) -> Judgement:
    """The judgement, INCONCLUSIVE where its limit is below the noise floor; a FAIL stands where the
    value is beyond what the floor proposes, too."""
    why = refusal(budget, floor)
    if not why or floor is None or judgement.verdict not in (Verdict.PASS, Verdict.FAIL):
        return judgement
    if judgement.verdict is Verdict.FAIL and judgement.value is not None:
        value, allowed = (
            margin_of(budget.metric, each) for each in (judgement.value, floor.proposed)
        )
        if not value <= allowed:
            return judgement
    return replace(judgement, verdict=Verdict.INCONCLUSIVE, reason=why)


def _key(floor: Floor) -> tuple[str, str, str]:
    return floor.device, floor.metric, floor.dtype


def _floor(row: dict[str, Any]) -> Floor:
    if unknown := set(row) - {field.name for field in fields(Floor)}:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
    if not (math.isfinite(float(row["margin"])) and row["margin"] >= 0):
        raise ValueError(f"the margin of {row['metric']} is {row['margin']}")
    return Floor(**row)
