"""Gates that an engine cannot run are not run, and say what the engine lacks."""

from __future__ import annotations

import pytest

from .gate_items import GATE_KEY
from .session import InfoptSession


class CapabilityHooks:
    """Compares what a gate requires with what the engines of its models offer."""

    def __init__(self, session: InfoptSession) -> None:
        self._reference = session.release.reference

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        __tracebackhide__ = True
        gate = pyfuncitem.stash.get(GATE_KEY, None)
        problem = "" if gate is None else gate.spec.lacks(gate.candidate, self._reference)
        if gate is None or not problem:
            return None
        gate.not_run(problem)
        return True
