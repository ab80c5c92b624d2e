"""The gate that a pytest item is running."""

from __future__ import annotations

import pytest

from .gate_items import spec_of
from .gate_run import GateRun
from .session import SESSION_KEY

GATE_KEY: pytest.StashKey[GateRun[object]] = pytest.StashKey()


def gate_run(item: pytest.Item, candidate: str) -> GateRun[object]:
    """The gate of this item, known to the hooks under the item's stash."""
    session, spec = item.config.stash[SESSION_KEY], spec_of(item)
    subject = next(c for c in spec.judged(session.release) if c.name == candidate)
    run: GateRun[object] = GateRun(spec, subject, session)
    item.stash[GATE_KEY] = run
    return run
