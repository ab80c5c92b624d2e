"""Gates that end without being measured: an engine cannot run them, or they were decided before."""

from __future__ import annotations

import pytest

from ..results.verdict import Verdict
from .gate_items import GATE_KEY
from .session import InfoptSession


class UnmeasuredGates:
    """Concludes what need not be measured.

    A gate that requires more than the engines of its models offer is not run, and says what they
    lack. What the run being resumed had decided counts; its errors are tried again, and what was
    inconclusive goes on from its samples.
    """

    def __init__(self, session: InfoptSession) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        __tracebackhide__ = True
        gate = pyfuncitem.stash.get(GATE_KEY, None)
        if gate is None:
            return None
        if problem := gate.spec.lacks(gate.candidate, self._session.release.reference):
            gate.not_run(problem)
            return True
        earlier = self._session.earlier.finished().get((gate.spec.name, gate.candidate.name))
        if earlier is None or earlier.verdict not in (Verdict.PASS, Verdict.FAIL):
            return None
        self._session.conclude(earlier)
        return True
