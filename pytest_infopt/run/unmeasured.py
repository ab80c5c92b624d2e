"""Gates that end without being measured: an engine cannot run them, or they were decided before."""

from __future__ import annotations

from functools import cached_property

import pytest

from ..corpus import load_corpus
from ..results.verdict import Verdict
from .running_gate import GATE_KEY
from .session import InfoptSession


class UnmeasuredGates:
    """Concludes what need not be measured.

    A gate that requires more than the engines of its models offer, or more documents than there
    are, is not run, and says what is lacking. What the run being resumed had decided counts; its
    errors are tried again, and what was inconclusive goes on from its samples. What this run has
    decided stays so, however often a plugin runs the item again: a FAIL is not tried until it
    passes.
    """

    def __init__(self, session: InfoptSession) -> None:
        self._session = session

    @cached_property
    def _documents(self) -> int:
        corpus = self._session.release.corpus
        return min(len(load_corpus(corpus, self._session.root)), corpus.max_documents)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        __tracebackhide__ = True
        gate = pyfuncitem.stash.get(GATE_KEY, None)
        if gate is None:
            return None
        key = (gate.spec.name, gate.candidate.name)
        decided = self._session.results.get(key)
        if decided is not None:
            self._session.end_item(decided)
            return True
        release = self._session.release
        if problem := (
            gate.spec.lacks(gate.candidate, release.reference)
            or gate.spec.too_few(release, self._documents)
        ):
            gate.not_run(problem)
            return True
        earlier = self._session.earlier.finished().get(key)
        if earlier is None or earlier.verdict not in (Verdict.PASS, Verdict.FAIL):
            return None
        self._session.conclude(earlier)
        return True
