"""After a FAIL: where the candidate is at fault, found in the process of the models.

A diagnosis explains a verdict and changes none. One that breaks, or for which no time is left, is a
note. What is found is journaled, so that a resumed run does not look for it again, and shared by
the gates that the same cause has failed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ..errors import InfoptError
from ..gates.base import Cause
from ..results.sample import Sample, TokenFinding

if TYPE_CHECKING:
    from .gate_run import GateRun
    from .session import InfoptSession

_MEASURE = "pytest_infopt.diagnose.measure:DiagnoseMeasure"
_PHASE = "diagnosis"


def diagnose(
    run: GateRun[Any], session: InfoptSession, failed: Sequence[str], worst: Sequence[TokenFinding]
) -> None:
    """Add sentences, tables and figures on why the ``failed`` metrics did; ``worst`` are the tokens
    at which the models differ most."""
    causes = dict.fromkeys(run.spec.causes[name] for name in failed if name in run.spec.causes)
    for index, cause in enumerate(causes):
        try:
            found = _found(run, session, index, cause, worst)
        except InfoptError as error:
            run.note([f"no diagnosis: {error}"])
            continue
        if found is not None:
            _add(run, cause, found)


def _found(
    run: GateRun[Any],
    session: InfoptSession,
    index: int,
    cause: Cause,
    worst: Sequence[TokenFinding],
) -> Sample | None:
    """The diagnosis: of another gate of this run, of the run that is resumed, or made now."""
    key = (_PHASE, f"{run.candidate.name} {cause}")
    if key in session.kept:
        return cast(Sample, session.kept[key])
    earlier = session.earlier.samples(run.spec.name, run.candidate.name, _PHASE)
    if index < len(earlier):
        session.kept[key] = earlier[index]
        return earlier[index]
    granted = run.release.diagnosis.seconds
    left = granted - session.diagnosing_seconds
    if left <= 0:
        if granted:
            run.note([f"no diagnosis: the run's {granted:g} s for it are over (diagnose.seconds)"])
        return None
    started = time.monotonic()
    try:
        measure = session.models.of(run.candidate, run.spec).proxy(_MEASURE)
        places = [(finding.document, finding.position) for finding in worst]
        found = cast(Sample, getattr(measure, cause)(left, places))
    finally:
        session.diagnosing_seconds += time.monotonic() - started
    session.journal.write_sample(run.spec.name, run.candidate.name, _PHASE, index, found)
    session.kept[key] = found
    return found


def _add(run: GateRun[Any], cause: Cause, found: Sample) -> None:
    sentences = run.details.setdefault("diagnosis", [])
    figures = run.details.setdefault("diagnosis_figures", {})
    assert isinstance(sentences, list)
    assert isinstance(figures, dict)
    sentences += found.details["sentences"]
    figures[str(cause)] = found.details["figures"]
    for table in found.details["tables"]:
        run.show(table)
