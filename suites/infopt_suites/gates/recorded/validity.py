"""What has to hold before records are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from pytest_infopt.engines.result_files.recording import RecordedAnswer, Recording
from pytest_infopt.errors import InvalidComparisonError

Sides = Mapping[str, Sequence[Recording]]  # "reference" and "candidate"
Items = Mapping[str, Sequence[RecordedAnswer]]
_TOLD = 5  # differences that a message lists


def check(sides: Sides) -> None:
    """Raises InvalidComparisonError for records of different work, naming what differs."""
    found = [*_faults(sides), *_settings(sides), *_doubles(sides)]
    refuse(found, "the records are not comparable")


def refuse(found: Sequence[str], what: str) -> None:
    """Raises InvalidComparisonError with the first of them, if there are any."""
    if found:
        more = f"; and {len(found) - _TOLD} more" if len(found) > _TOLD else ""
        raise InvalidComparisonError(f"{what}: {'; '.join(found[:_TOLD])}{more}")


def _faults(sides: Sides) -> Iterator[str]:
    for side, recordings in sides.items():
        for recording in recordings:
            yield from (f"{side}'s {recording.file}: {fault}" for fault in recording.faults)


def _settings(sides: Sides) -> Iterator[str]:
    """Each setting once, with the first two files that differ in it."""
    seen: dict[str, tuple[Any, str]] = {}
    told = set()
    for side, recordings in sides.items():
        for recording in recordings:
            own = dict(recording.settings)
            if recording.is_timed:
                own = {"tool": recording.tool} | own
            where = f"{side}'s {recording.file}"
            for name, value in own.items():
                first, there = seen.setdefault(name, (value, where))
                if first != value and name not in told:
                    told.add(name)
                    yield f"{name} is {first!r} in {there}, {value!r} in {where}"


def _doubles(sides: Sides) -> Iterator[str]:
    """One session that counts twice would vouch for itself."""
    timed = [(side, each) for side in sides for each in sides[side] if each.is_timed]
    for place, (side, recording) in enumerate(timed):
        for other, earlier in timed[:place]:
            if (recording.finished, recording.seconds) == (earlier.finished, earlier.seconds):
                yield f"{side}'s {recording.file} is {other}'s {earlier.file}: the same session"


def blocks_of(sides: Sides) -> tuple[list[tuple[Recording, Recording]], bool]:
    """The sessions of reference and candidate by block, and whether their files show the order.

    Raises InvalidComparisonError where the sides have not as many sessions, where their times
    contradict the blocks, and where one side always went first.
    """
    reference, candidate = ([r for r in sides[side] if r.is_timed] for side in sides)
    if len(reference) != len(candidate):
        raise InvalidComparisonError(
            f"[recorded] blocks: the reference has {len(reference)} sessions and the candidate "
            f"{len(candidate)}; a block is one of each"
        )
    shown = all(recording.finished for recording in (*reference, *candidate))
    if shown:
        reference, candidate = (
            sorted(side, key=lambda each: each.finished) for side in (reference, candidate)
        )
        _check_order([(a.finished, b.finished) for a, b in zip(reference, candidate, strict=True)])
    return list(zip(reference, candidate, strict=True)), shown


def _check_order(times: Sequence[tuple[str, str]]) -> None:
    for number, (before, after) in enumerate(pairwise(times), 1):
        if max(before) >= min(after):
            raise InvalidComparisonError(
                f"[recorded] blocks: the sessions did not alternate: block {number} ended at "
                f"{max(before)}, a session of block {number + 1} at {min(after)} already; run one "
                "session of each, then the next two"
            )
    firsts = {"reference" if ours < theirs else "candidate" for ours, theirs in times}
    if len(times) > 1 and len(firsts) == 1:
        raise InvalidComparisonError(
            f"[recorded] blocks: the {firsts.pop()} went first in all {len(times)} blocks; what "
            "changes within a block would look like a difference. Draw each block's order by a coin"
        )


def check_items(task: str, reference: Items, candidate: Items) -> None:
    """Raises InvalidComparisonError where a task's items, or what was asked, differ."""
    found = [
        f"{len(only)} items are the {side}'s alone, such as {min(only)}"
        for side, only in (
            ("reference", reference.keys() - candidate.keys()),
            ("candidate", candidate.keys() - reference.keys()),
        )
        if only
    ]
    for item in reference.keys() & candidate.keys():
        ours, theirs = reference[item], candidate[item]
        if len(ours) != len(theirs):
            found.append(f"item {item} has {len(ours)} and {len(theirs)} answers")
        elif len({answer.asked for answer in (*ours, *theirs)}) > 1:
            found.append(f"item {item} was asked otherwise: question, prompt or right answer")
    refuse(sorted(found), f"task {task}")
