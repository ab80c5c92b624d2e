"""Conformance: the properties of one implementation, gathered from items into one result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..results.gate_result import GateResult
from ..results.verdict import Judgement, Verdict
from . import NOT_OFFERED, NOTHING_TO_TRY, UNUSABLE

CONFORMANCE = "conformance"  # the gate of every property of a suite
EXPECTED_FAILURE = "expected failure"
NOT_RUN = "NOT RUN"


def merged(earlier: GateResult, later: GateResult) -> GateResult:
    """Both items' properties, by name: items arrive in any order from pytest-xdist's workers.

    A property that broke after it was judged counts as it ended. One that was run again and passes
    then has failed all the same.
    """
    by_name = {judgement.metric: judgement for judgement in earlier.judgements}
    for judgement in later.judgements:
        before = by_name.get(judgement.metric)
        failed = before is not None and before.verdict in (Verdict.FAIL, Verdict.ERROR)
        if not (failed and judgement.verdict is Verdict.PASS):
            by_name[judgement.metric] = judgement
    judgements = [by_name[name] for name in sorted(by_name)]
    faults = [fault for fault in (earlier.error, later.error) if fault is not None]
    return replace(
        earlier,
        seconds=earlier.seconds + later.seconds,
        judgements=judgements,
        error="\n".join(dict.fromkeys("\n".join(faults).splitlines())) or None,
        notes=notes_on(judgements),
    )


def notes_on(judgements: list[Judgement]) -> list[str]:
    """How many properties came to what, on how many cases of what kinds; what fails as announced.

    The first note counts, the last ones say what was not tried, and why.
    """
    left_out, without = _because(judgements, NOT_OFFERED), _because(judgements, NOTHING_TO_TRY)
    counts = [
        (sum(j.verdict is Verdict.PASS for j in judgements), "passed"),
        (sum(j.verdict is Verdict.FAIL for j in judgements), "failed"),
        (sum(j.verdict is Verdict.ERROR for j in judgements), "broke"),
        (len(_because(judgements, EXPECTED_FAILURE)), "failed as expected"),
        (len(left_out), NOT_OFFERED),
        (len(without), NOTHING_TO_TRY),
        (len(_because(judgements, UNUSABLE)), UNUSABLE),
    ]
    tally = ", ".join(f"{count} {what}" for count, what in counts if count)
    notes = [f"{properties(len(judgements))}: {tally}", *_tried_on(judgements)]
    notes += [f"{j.metric}: {j.reason}" for j in _because(judgements, EXPECTED_FAILURE)]
    notes += not_tried((j.details.get("not_claimed", ()), j.metric) for j in left_out)
    if without:
        notes.append(f"{NOTHING_TO_TRY}: {', '.join(j.metric for j in without)}")
    return notes


def _tried_on(judgements: list[Judgement]) -> list[str]:
    """Cases of the properties that passed: how many, and of what kinds."""
    passed = [j for j in judgements if j.verdict is Verdict.PASS]
    if all(j.n <= 1 for j in passed):
        return []
    fewest = min(passed, key=lambda j: j.n)
    said = f"tried on {sum(j.n for j in passed)} cases, at least {fewest.n} ({fewest.metric})"
    kinds: dict[str, dict[str, None]] = {}
    for judgement in passed:
        for topic, words in judgement.details.get("kinds", {}).items():
            kinds.setdefault(topic, {}).update(dict.fromkeys(words))
    return ["; ".join([said, *(f"{topic}: {', '.join(kinds[topic])}" for topic in sorted(kinds))])]


def not_tried(left_out: Iterable[tuple[Iterable[str], str]]) -> list[str]:
    """For each set of capabilities that nobody claims: which properties it left untried.

    ``left_out`` has, for each such property, the capabilities and its name.
    """
    names: dict[str, list[str]] = {}
    for capabilities, name in left_out:
        names.setdefault(", ".join(capabilities), []).append(name)
    return [
        f"{words} not claimed: {properties(len(found))} not tried ({', '.join(found)})"
        for words, found in sorted(names.items())
    ]


def properties(count: int) -> str:
    """The count with its noun."""
    return f"{count} {'property' if count == 1 else 'properties'}"


def shown(gate: GateResult) -> list[Judgement]:
    """The judgements that a table shows: of properties, those that did not pass."""
    if gate.gate != CONFORMANCE:
        return gate.judgements
    return [j for j in gate.judgements if j.verdict not in (Verdict.PASS, None)]


def _because(judgements: list[Judgement], reason: str) -> list[Judgement]:
    return [j for j in judgements if j.verdict is None and j.reason.startswith(reason)]
