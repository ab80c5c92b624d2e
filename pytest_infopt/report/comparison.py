"""All candidates of a run side by side: what each weighs, takes and loses.

A candidate is on the front where no other weighs less, takes less time and loses less, by the
estimates. What is not measured of a candidate has no number, and puts it on no front.

Time is that of an output token over the reference's. A candidate whose gates timed another way of
serving has that way's time over plain decoding: with its draft, in batches, without a KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..results.run_result import RunResult
from ..results.verdict import Judgement
from .text import visible
from .wording import ABSENT, estimate_text, value_text

WEIGHTS, TIME, LOSS = "weight_bytes", "tpot_ratio", "kl_mean"
AGREEMENT, DRAFT = "top1_agreement", "draft_bytes"
COLUMNS = ("candidate", "weights", "time of a token", "KL", "same best token", "front")
HOW_TIMED = (
    "Time is that of an output token over the reference's; with a draft, in batches or without a "
    "KV cache it is over plain decoding."
)

# How a metric tells the time of a token: the way of serving, and the power of the ratio.
_TIMES = {
    "speculative_speed_up": ("with its draft", -1),
    TIME: ("", 1),
    "batching_throughput_ratio": ("in batches", -1),
    "kv_step_speed_up": ("without a KV cache", 1),
}


@dataclass(frozen=True)
class ComparedCandidate:
    """A candidate's judgements as far as they have values; ``serving`` is how it was timed."""

    name: str
    found: Mapping[str, Judgement]
    serving: str = ""
    is_on_front: bool = False

    @property
    def weight_bytes(self) -> float | None:
        """Its weights, and what a draft adds."""
        own, draft = self.found.get(WEIGHTS), self.found.get(DRAFT)
        if own is None or own.value is None:
            return None
        return own.value + (draft.value or 0.0 if draft else 0.0)

    @property
    def place(self) -> tuple[float, ...] | None:
        """Weights, time and loss; None where one of them was not measured."""
        others = [self.found[name].value for name in (TIME, LOSS) if name in self.found]
        values = [self.weight_bytes, *others]
        known = [value for value in values if value is not None and math.isfinite(value)]
        return tuple(known) if len(known) == 3 else None

    @property
    def cells(self) -> tuple[str, ...]:
        """A cell for each of `COLUMNS`."""
        weights = self.weight_bytes
        found = {n: estimate_text(j) for n, j in self.found.items()}
        time = f"{found.get(TIME, ABSENT)} {self.serving}".rstrip()
        return (
            self.name,
            ABSENT if weights is None else value_text(WEIGHTS, weights),
            time,
            found.get(LOSS, ABSENT),
            found.get(AGREEMENT, ABSENT),
            "yes" if self.is_on_front else "",
        )


def compared(run: RunResult) -> list[ComparedCandidate]:
    """The candidates that were measured; none where fewer than two were."""
    found: dict[str, dict[str, Judgement]] = {}
    for gate in run.gates:
        for judgement in gate.judgements:
            if judgement.value is not None:
                found.setdefault(visible(gate.candidate), {})[judgement.metric] = judgement
    candidates = [
        _timed(name, of_it) for name, of_it in found.items() if {WEIGHTS, LOSS} & of_it.keys()
    ]
    if len(candidates) < 2:
        return []
    places = [c.place for c in candidates if c.place is not None]
    return [replace(c, is_on_front=_is_on_front(c.place, places)) for c in candidates]


def _timed(name: str, found: dict[str, Judgement]) -> ComparedCandidate:
    shown = {k: found[k] for k in (WEIGHTS, DRAFT, LOSS, AGREEMENT) if k in found}
    serving, time = next(_times(found), ("", None))
    return ComparedCandidate(name, shown | ({TIME: time} if time else {}), serving)


def _times(found: Mapping[str, Judgement]) -> Iterator[tuple[str, Judgement]]:
    """The ways that were timed, as times over plain decoding or the reference. One pair tells
    nothing: a way of serving counts where there is an interval."""
    for metric, (serving, power) in _TIMES.items():
        judgement = found.get(metric)
        if judgement is None or not judgement.value or (serving and not judgement.interval):
            continue
        value, *ends = (_power(r, power) for r in (judgement.value, *(judgement.interval or ())))
        interval = (min(ends), max(ends)) if ends else None
        yield serving, replace(judgement, metric=TIME, value=value, interval=interval)


def _power(ratio: float, power: int) -> float:
    return ratio**power if ratio or power > 0 else math.inf


def _is_on_front(place: tuple[float, ...] | None, places: list[tuple[float, ...]]) -> bool:
    if place is None:
        return False
    others = (other for other in places if other != place)
    return not any(all(a <= b for a, b in zip(o, place, strict=True)) for o in others)
