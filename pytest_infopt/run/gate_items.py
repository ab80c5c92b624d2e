"""What a pytest item has to do with a gate."""

from __future__ import annotations

import pytest

from ..conformance.suite_items import suite_of
from ..gates.base import GateSpec
from ..gates.registry import gate_named

MARKER = "infopt_gate"


def is_gate(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARKER) is not None


def is_for_infopt(item: pytest.Item) -> bool:
    """Whether a test that is no gate runs: marked ``infopt``, or a property of a suite."""
    return suite_of(item) is not None or item.get_closest_marker("infopt") is not None


def spec_of(node: pytest.Item) -> GateSpec:
    """The gate that the item's module is the procedure of."""
    marker = node.get_closest_marker(MARKER)
    assert marker is not None
    return gate_named(str(marker.args[0]))


def subject_of(item: pytest.Item) -> str:
    """The candidate of a gate item; empty where no candidate has a budget for the gate."""
    callspec = getattr(item, "callspec", None)
    name = callspec.params.get(MARKER) if callspec is not None else None
    return name if isinstance(name, str) else ""
