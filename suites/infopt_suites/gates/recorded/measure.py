"""What the gate on recorded results reads in the process of the models."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pytest_infopt import ModelPair, Rule, Sample, remote
from pytest_infopt.engines.base import RecordedEngine, able
from pytest_infopt.engines.result_files.recording import RecordedAnswer, Recording
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.judge.paired import Outcome

from . import validity
from .gate import RATIOS, THROUGHPUT, RecordedPlan


@dataclass(frozen=True)
class Found:
    """What the files hold: sessions by side, blocks of them, and items by task. ``digest`` tells
    these files from others."""

    sessions: Mapping[str, int]
    blocks: int
    order_shown: bool
    tasks: Mapping[str, int]
    digest: str


class RecordedMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._plan = pair.release.plan(RecordedPlan)
        engines = {
            "reference": able(pair.reference, RecordedEngine),
            "candidate": able(pair.candidate, RecordedEngine),
        }
        self._sides = {side: engine.recordings for side, engine in engines.items()}
        told = "".join(engine.fingerprint for engine in engines.values())
        self._digest = hashlib.sha256(told.encode()).hexdigest()

    @remote
    def found(self) -> Found:
        """What there is to compare; raises InvalidComparisonError for what is not comparable."""
        validity.check(self._sides)
        blocks, shown = self._blocks
        return Found(
            {side: len(self._timed(side)) for side in self._sides},
            len(blocks),
            shown,
            {task: len(items) for task, (items, _) in self._tasks.items()},
            self._digest,
        )

    @remote
    def sessions(self) -> Sample:
        """All sessions of either side together, for an estimate."""
        both = [_together(self._timed(side)) for side in self._sides]
        return _ratios("all sessions", *both)

    @remote
    def block(self, index: int) -> Sample:
        """One session of either side."""
        reference, candidate = self._blocks[0][index]
        sample = _ratios(f"block {index + 1}", reference, candidate)
        sample.details["files"] = [reference.file, candidate.file]
        return sample

    @remote
    def item(self, task: str, index: int) -> Sample:
        """The answers of both to an item, as often as it was asked."""
        items, answers = self._tasks[task]
        ours, theirs = answers[items[index]]
        largest = max(len(each) for each, _ in answers.values())
        outcomes = [_outcome(a, b) for a, b in zip(ours, theirs, strict=True)]
        filled = [*outcomes, *[Outcome.NO_ITEM] * (largest - len(outcomes))]
        return Sample(
            unit=f"{task} {items[index]}",
            weight=len(outcomes),
            values={},
            tokens={Rule.PAIRED: [float(each) for each in filled]},
        )

    def _timed(self, side: str) -> list[Recording]:
        return [recording for recording in self._sides[side] if recording.is_timed]

    @cached_property
    def _blocks(self) -> tuple[list[tuple[Recording, Recording]], bool]:
        return validity.blocks_of(self._sides) if self._plan.blocks else ([], False)

    @cached_property
    def _tasks(self) -> dict[str, tuple[list[str], Mapping[str, _Answers]]]:
        """By task: its items in a fixed order, and what both answered to each."""
        reference, candidate = (_answers(recordings) for recordings in self._sides.values())
        alone = sorted(reference.keys() ^ candidate.keys())
        asked = self._plan.tasks or (reference.keys() & candidate.keys())
        missing = [task for task in self._plan.tasks if task not in reference.keys() & candidate]
        if missing or (alone and not self._plan.tasks):
            raise InvalidComparisonError(
                f"tasks {missing or alone} are not in the files of both sides, which have "
                f"{sorted(reference)} and {sorted(candidate)}; name those that count in [recorded]"
            )
        found: dict[str, tuple[list[str], Mapping[str, _Answers]]] = {}
        for task in sorted(asked):
            ours, theirs = reference[task], candidate[task]
            validity.check_items(task, ours, theirs)
            # In an order that no file chose: bets are placed as items come.
            items = sorted(ours, key=lambda item: hashlib.sha256(item.encode()).digest())
            found[task] = items, {item: (ours[item], theirs[item]) for item in items}
        return found


_Answers = tuple[Sequence[RecordedAnswer], Sequence[RecordedAnswer]]


def _answers(recordings: Sequence[Recording]) -> dict[str, dict[str, list[RecordedAnswer]]]:
    """By task and item, over all files."""
    found: dict[str, dict[str, list[RecordedAnswer]]] = {}
    for recording in recordings:
        for task, items in recording.answers.items():
            for item, answers in items.items():
                found.setdefault(task, {}).setdefault(item, []).extend(answers)
    return found


def _outcome(reference: RecordedAnswer, candidate: RecordedAnswer) -> Outcome:
    if reference.right:
        return Outcome.BOTH_RIGHT if candidate.right else Outcome.LOST
    return Outcome.GAINED if candidate.right else Outcome.BOTH_WRONG


def _together(sessions: Sequence[Recording]) -> Recording:
    """The median of each figure."""
    stems = set.intersection(*(set(each.seconds) for each in sessions))
    rates = [each.tokens_per_second for each in sessions if each.tokens_per_second]
    return Recording(
        sessions[0].tool,
        "",
        "",
        seconds={s: statistics.median(each.seconds[s] for each in sessions) for s in stems},
        tokens_per_second=statistics.median(rates) if rates else None,
    )


def _ratios(unit: str, reference: Recording, candidate: Recording) -> Sample:
    """Log ratios of what both files tell."""
    both = reference.seconds.keys() & candidate.seconds.keys()
    values = {
        metric.name: math.log(candidate.seconds[stem] / reference.seconds[stem])
        for stem, metric in RATIOS.items()
        if stem in both
    }
    if reference.tokens_per_second and candidate.tokens_per_second:
        rate = candidate.tokens_per_second / reference.tokens_per_second
        values[THROUGHPUT.name] = math.log(rate)
    absent = {
        metric.name: f"{reference.tool} does not tell {stem} in these files"
        for stem, metric in RATIOS.items()
        if stem not in both
    }
    return Sample(unit=unit, weight=1, values=values, details={"not_judged": absent})
