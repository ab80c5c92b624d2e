"""A gate's result as JUnit properties: for machines in one JSON text, for people as numbers.

pytest carries ``user_properties`` with each test report, under pytest-xdist too, so that the
property ``infopt`` is also how a worker's results reach the process that writes the reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..results.gate_result import GateResult
from ..strict_json import dumps, loads
from .text import visible

PROPERTY = "infopt"


def junit_properties(gate: GateResult) -> list[tuple[str, str]]:
    """``infopt`` (everything, as JSON), ``infopt.verdict``, and ``infopt.METRIC`` for each value.

    Names and values are printable ASCII, which XML 1.0 can hold.
    """
    properties = [(PROPERTY, dumps(gate.to_json())), (f"{PROPERTY}.verdict", gate.verdict.value)]
    properties += [
        (f"{PROPERTY}.{_ascii(judgement.metric)}", f"{judgement.value:.6g}")
        for judgement in gate.judgements
        if judgement.value is not None
    ]
    return properties


def gate_from_properties(properties: Iterable[Sequence[Any]]) -> GateResult | None:
    """The result that `junit_properties` put among a test report's properties, if there is one.

    A property of that name that a test of the user's own recorded is none.
    """
    for name, value in properties:
        if name == PROPERTY and (document := _gate_document(value)) is not None:
            return GateResult.from_json(document)
    return None


def _gate_document(value: object) -> dict[str, Any] | None:
    try:
        document = loads(str(value))
    except ValueError:
        return None
    return document if {"gate", "candidate", "judgements"} <= document.keys() else None


def _ascii(text: str) -> str:
    return visible(text).encode("ascii", "backslashreplace").decode("ascii")
