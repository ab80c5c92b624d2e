"""Timings recorded on a real machine: the noise is real, and what ratio is hidden in it is known.

A trace is the seconds of one function's calls in a row (`record.py`). A session begins anywhere in
it, takes its calls in pairs whose order a coin draws, and multiplies the candidate's by the ratio.
Sessions of one trace overlap, so their shares are coarser than those of simulated sessions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from error_rates import rivals, sessions
from error_rates.cells import CALLS, LIMIT, Compared
from error_rates.sessions import ALPHA, Values

RECORDED = Path(__file__).with_name("recorded.npz")
SESSIONS = 500
SECONDS = 30.0  # of one session
WITHIN = (1, 5, 10, 20, 30)
MOST_PAIRS = 3000


@dataclass(frozen=True)
class Sessions:
    """Sessions from one trace: log ratios of unchanged code, and the seconds from its beginning to
    the end of each pair, both [sessions, pairs]; and consecutive calls, [sessions, 2 · CALLS]."""

    ratios: Values
    elapsed: Values
    calls: Values

    def reached(self, pairs: Values) -> Values:
        """The seconds at which sessions came to these pairs; infinity where they never did."""
        there = np.isfinite(pairs)
        index = np.where(there, pairs, 0).astype(int)
        seconds = np.take_along_axis(self.elapsed, index[:, None], axis=1)[:, 0]
        return np.where(there & (seconds <= SECONDS), seconds, math.inf)


def traces() -> dict[str, Values]:
    """Seconds of calls in a row, by what was called."""
    with np.load(RECORDED) as stored:
        return {name: stored[name].astype(float) for name in stored.files}


def described(name: str, trace: Values) -> str:
    spread, neighbours = trace.std() / trace.mean(), np.corrcoef(trace[:-1], trace[1:])[0, 1]
    return (
        f"{name}, {1e3 * np.median(trace):.1f} ms, coefficient of variation {spread:.2f}, "
        f"autocorrelation {neighbours:.2f}"
    )


def sessions_of(trace: Values, generator: np.random.Generator, count: int = SESSIONS) -> Sessions:
    pairs = min(MOST_PAIRS, int(SECONDS / trace.mean() / 2), len(trace) // 4)
    starts = generator.integers(0, len(trace) - 2 * pairs, count)
    slots = trace[starts[:, None] + np.arange(2 * pairs)]
    both = slots.reshape(count, pairs, 2)
    first = np.where(generator.random((count, pairs)) < 0.5, 1.0, -1.0)
    gaps = first * (np.log(both[..., 0]) - np.log(both[..., 1]))
    return Sessions(gaps, both.sum(axis=2).cumsum(axis=1), slots[:, : 2 * CALLS])


def comparisons(generator: np.random.Generator) -> Iterator[Compared]:
    """False alarms and power beside other tools' rules, and the seconds to a right verdict."""
    drawn = {
        described(name, trace): sessions_of(trace, generator) for name, trace in traces().items()
    }
    for question, ratio in (("unchanged code", 1.0), ("10 % slower", 1.1)):
        for name, found in drawn.items():
            sides = found.calls[:, :CALLS], ratio * found.calls[:, CALLS:]
            _, failed = decided(found, ratio)
            rates = {"infopt": float((failed < math.inf).mean())}
            rates |= {tool: float(rule(*sides).mean()) for tool, rule in rivals.TIMING.items()}
            yield Compared(f"FAIL, {question}, recorded", name, rates)
    for name, found in drawn.items():
        for truth, ratio in (("unchanged code", 1.0), ("10 % slower", 1.1), ("20 % slower", 1.2)):
            passed, failed = decided(found, ratio)
            right = passed if ratio < LIMIT else failed
            yield Compared(
                f"right verdict within, {name}",
                truth,
                {f"{most} s": float((right <= most).mean()) for most in WITHIN}
                | {"mean": f"{right[right < math.inf].mean():.1f} s"}
                | {"fixed test of that power": _fixed_seconds(found, ratio, right)},
            )


def decided(found: Sessions, ratio: float) -> tuple[Values, Values]:
    """The seconds to PASS and to FAIL of `tpot_ratio` and `tpot_mean_ratio` together: PASS needs
    both, either FAIL ends it; infinity for what was not the verdict."""
    ratios = found.ratios + math.log(ratio)
    sign, mean = sessions.sign_crossings(ratios, LIMIT), sessions.log_mean_crossings(ratios, LIMIT)
    passing, failing = np.maximum(sign[0], mean[0]), np.minimum(sign[1], mean[1])
    passed, failed = passing < failing, failing <= passing
    return (
        found.reached(np.where(passed, passing, math.inf)),
        found.reached(np.where(failed, failing, math.inf)),
    )


def _fixed_seconds(found: Sessions, ratio: float, right: Values) -> str:
    """What an exact paired sign test takes whose number of pairs is fixed, and which ends in the
    right verdict as often."""
    ratios = found.ratios + math.log(ratio / LIMIT)
    hits = ((ratios < 0) if ratio < LIMIT else (ratios > 0)).cumsum(axis=1)
    counts = np.arange(1, ratios.shape[1] + 1)
    power = (stats.binom.sf(hits - 1, counts, 0.5) <= ALPHA).mean(axis=0)
    enough = power >= (right < math.inf).mean()
    if not enough.any():
        return f"over {found.elapsed[:, -1].mean():.0f} s"
    return f"{found.elapsed[:, enough.argmax()].mean():.1f} s"
