"""After a FAIL: where the candidate is at fault, found in the process of the models.

A diagnosis explains a verdict and changes none. One that breaks, or for which no time is left, is a
note. What is found is journaled, so that a resumed run does not look for it again, and shared by
the gates that the same cause has failed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ..errors import InfoptError
from ..gates.base import Cause, GateSpec
from ..release import Candidate
from ..results.sample import Sample, TokenFinding
from ..results.verdict import Judgement, Verdict
from .gate_record import GateRecord

if TYPE_CHECKING:
    from .session import InfoptSession

_MEASURE = "pytest_infopt.diagnose.measure:DiagnoseMeasure"
_PHASE = "diagnosis"


def diagnose(
    record: GateRecord,
    spec: GateSpec,
    candidate: Candidate,
    session: InfoptSession,
    judgements: Sequence[Judgement],
    worst: Sequence[TokenFinding],
) -> None:
    """Add sentences, tables and figures on why metrics failed to the gate's record; ``worst`` are
    the tokens at which the models differ most."""
    failed = [judgement.metric for judgement in judgements if judgement.verdict is Verdict.FAIL]
    causes = dict.fromkeys(spec.causes[name] for name in failed if name in spec.causes)
    search = _Search(spec, candidate, session)
    for index, cause in enumerate(causes):
        try:
            found = search.found(index, cause, worst)
        except InfoptError as error:
            record.note([f"no diagnosis: {error}"])
            continue
        if found is not None:
            _add(record, cause, found)


@dataclass(frozen=True)
class _Search:
    """Diagnoses of one gate on one candidate."""

    spec: GateSpec
    candidate: Candidate
    session: InfoptSession

    def found(self, index: int, cause: Cause, worst: Sequence[TokenFinding]) -> Sample | None:
        """The index-th diagnosis of the gate: of another gate of this run, of the run that is
        resumed, or made now; None where none is asked for.

        Raises InfoptError where there is no time for it, and where it breaks.
        """
        session, key = self.session, (_PHASE, f"{self.candidate.name} {cause}")
        if key not in session.kept:
            earlier = session.earlier.samples(self.spec.name, self.candidate.name, _PHASE)
            granted = session.release.diagnosis.seconds
            if index < len(earlier):
                session.kept[key] = earlier[index]
            elif not granted:
                return None
            elif session.diagnosing_seconds >= granted:
                raise InfoptError(f"the run's {granted:g} s for it are over ([diagnose] seconds)")
            else:
                session.kept[key] = self._made(index, cause, worst)
        return cast(Sample, session.kept[key])

    def _made(self, index: int, cause: Cause, worst: Sequence[TokenFinding]) -> Sample:
        session, started = self.session, time.monotonic()
        left = session.release.diagnosis.seconds - session.diagnosing_seconds
        session.show_progress(f"{self.candidate.name} diagnosis", 0, 0, [], started + left)
        places = [(finding.document, finding.position) for finding in worst]
        try:
            measure = session.models.of(self.candidate, self.spec).proxy(_MEASURE)
            found = cast(Sample, getattr(measure, cause)(left, places))
        finally:
            session.diagnosing_seconds += time.monotonic() - started
        session.journal.write_sample(self.spec.name, self.candidate.name, _PHASE, index, found)
        return found


def _add(record: GateRecord, cause: Cause, found: Sample) -> None:
    sentences = record.details.setdefault("diagnosis", [])
    figures = record.details.setdefault("diagnosis_figures", {})
    assert isinstance(sentences, list)
    assert isinstance(figures, dict)
    sentences += found.details["sentences"]
    figures[str(cause)] = found.details["figures"]
    for table in found.details["tables"]:
        record.show(table)
