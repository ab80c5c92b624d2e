"""What the stability gate measures in the process of the models."""

from __future__ import annotations

import time

from pytest_infopt import ModelPair, Sample, remote
from pytest_infopt.engines.base import WholeLogitsEngine, able
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.measure import (
    RepeatedPass,
    calls_of_modules,
    differing_rows,
    first_difference,
)

from .gate import METRICS, StabilityPlan

_CONTROL_REPEATS = 4
_METRICS = [metric.name for metric in METRICS]


class StabilityMeasure:
    def __init__(self, pair: ModelPair) -> None:
        self._pair = pair
        self._plan = pair.release.plan(StabilityPlan)

    @remote
    def reading(self) -> Sample:
        """The pass of the session's beginning, made again and again."""
        started = time.perf_counter()
        known = self._pair.first_pass
        count, drawn, moved = repeated(known, self._plan.repeats, self._plan.seconds)
        notes, not_judged = [], {}
        if drawn or moved:
            if reason := self._control():
                not_judged = dict.fromkeys(_METRICS, reason)
            notes = [reason or f"the same pass comes to something else {self._where()}"]
        values = dict(zip(_METRICS, (float(len(drawn)), float(len(moved))), strict=True))
        return Sample(
            unit="session",
            weight=len(known.token_ids),
            values={} if not_judged else values,
            details={
                "passes": {
                    "repeats": count,
                    "seconds_since_the_first": started - known.made,
                    "positions_that_differ_between_repeats": drawn,
                    "positions_that_differ_from_the_first": moved,
                },
                "notes": notes,
                "not_judged": not_judged,
            },
            seconds=time.perf_counter() - started,
        )

    def _where(self) -> str:
        """Where passes part: two of this engine, else one of it and one of a copy loaded anew."""
        candidate, token_ids = self._pair.candidate, self._pair.first_pass.token_ids
        now = calls_of_modules(candidate, token_ids)
        if where := first_difference(now, calls_of_modules(candidate, token_ids)):
            return where
        fresh = load_engine(self._pair.source)
        try:
            where = first_difference(calls_of_modules(fresh, token_ids), now) or "outside modules"
        finally:
            fresh.close()
        return f"{where}, where a copy loaded anew computes as at the beginning"

    def _control(self) -> str:
        """Why nothing can be said: the reference's bits change on this device, too."""
        control = RepeatedPass(able(self._pair.reference, WholeLogitsEngine))
        _, drawn, _ = repeated(control, _CONTROL_REPEATS, self._plan.seconds)
        if not drawn:
            return ""
        return (
            f"the reference is not deterministic on this device: {len(drawn)} of "
            f"{len(control.token_ids)} positions have other bits when its pass is repeated"
        )


def repeated(known: RepeatedPass, most: int, seconds: float) -> tuple[int, list[int], list[int]]:
    """How many repetitions were made, two at least; the positions at which any differs from the
    first of them, and from the pass that is known."""
    deadline = time.perf_counter() + seconds
    again = known.again()
    count, drawn, moved = 1, set[int](), set(differing_rows(known.first, again))
    while count < 2 or (count < most and time.perf_counter() < deadline):
        logits = known.again()
        drawn.update(differing_rows(again, logits))
        moved.update(differing_rows(known.first, logits))
        count += 1
    return count, sorted(drawn), sorted(moved)
