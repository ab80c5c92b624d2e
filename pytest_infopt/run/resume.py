"""A run that is resumed: what it had decided counts."""

from __future__ import annotations

import pytest

from ..results.verdict import Verdict
from .gate_items import GATE_KEY
from .session import InfoptSession


class ResumedVerdicts:
    """Gates that the run being resumed had decided are not measured again.

    Errors are tried again, and what was inconclusive goes on from its samples.
    """

    def __init__(self, session: InfoptSession) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        __tracebackhide__ = True
        gate = pyfuncitem.stash.get(GATE_KEY, None)
        if gate is None:
            return None
        earlier = self._session.earlier.finished().get((gate.spec.name, gate.candidate.name))
        if earlier is None or earlier.verdict not in (Verdict.PASS, Verdict.FAIL):
            return None
        self._session.conclude(earlier)
        return True
