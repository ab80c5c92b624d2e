"""What other tools' rules say, each in a few lines, with where it was read.

Timings are seconds of a reference's calls and a candidate's, [sessions, calls], one after the other
as those tools take them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
RUNS = 10  # benchstat asks for at least so many on either side


def pytest_benchmark(reference: Values, candidate: Values) -> Flags:
    """``--benchmark-compare-fail=mean:5%`` (pytest_benchmark/utils.py, revision 47d66c8)."""
    return np.asarray(100 * candidate.mean(1) / reference.mean(1) - 100 > 5)


def benchstat(reference: Values, candidate: Values) -> Flags:
    """Mann-Whitney's U at .05, runs being means of several calls (golang.org/x/perf/benchmath,
    revision 712aea8)."""
    ours, theirs = (side.reshape(len(side), RUNS, -1).mean(2) for side in (candidate, reference))
    p = stats.mannwhitneyu(ours, theirs, axis=1).pvalue
    return np.asarray((p < 0.05) & (np.median(ours, 1) > np.median(theirs, 1)))


def asv(reference: Values, candidate: Values) -> Flags:
    """U at .002 by its normal limit, and a ratio beyond the factor 1.1 (asv 0.6.6, _stats.py and
    commands/compare.py)."""
    p = stats.mannwhitneyu(
        candidate, reference, axis=1, method="asymptotic", use_continuity=False
    ).pvalue
    return np.asarray((p < 0.002) & (np.median(candidate, 1) > 1.1 * np.median(reference, 1)))


def criterion(reference: Values, candidate: Values) -> Flags:
    """A t test at .05 and a change of the mean beyond ±1 % with 95 % confidence; both bootstraps
    are replaced by their normal limit (criterion.rs, revision 567405d)."""
    deviation = np.hypot(stats.sem(candidate, 1), stats.sem(reference, 1))
    p = 2 * stats.norm.sf(abs(candidate.mean(1) - reference.mean(1)) / deviation)
    ratio = candidate.mean(1) / reference.mean(1)
    parts = [stats.sem(side, 1) / side.mean(1) for side in (reference, candidate)]
    spread = np.hypot(*parts)
    return np.asarray((p < 0.05) & (ratio * (1 - 1.96 * spread) > 1.01))


TIMING = {
    "pytest-benchmark": pytest_benchmark,
    "benchstat": benchstat,
    "asv": asv,
    "criterion": criterion,
}


def llama_cpp(tokens: Values, limit: float) -> Flags:
    """The mean over tokens, and its deviation as if they were independent (tools/perplexity,
    perplexity.cpp): below the limit with 99 % confidence. ``tokens`` are [sessions, tokens]."""
    return np.asarray(tokens.mean(1) + stats.norm.ppf(0.99) * stats.sem(tokens, 1) < limit)


def lm_eval(reference: Values, candidate: Values, margin: float) -> Flags:
    """No worse than the margin with 99 % confidence, by the unpaired deviation of
    ``scripts/model_comparator.py`` (lm-evaluation-harness, revision 4e7e0d4)."""
    spread = np.sqrt(stats.sem(reference, 1) ** 2 + stats.sem(candidate, 1) ** 2)
    loss = reference.mean(1) - candidate.mean(1)
    return np.asarray(loss + stats.norm.ppf(0.99) * spread < margin)


def nel_gate(reference: Values, candidate: Values, margin: float) -> Flags:
    """GO where the paired t interval (95 %) lies above the margin; answers that never differ have
    an interval of no width (nemo-evaluator 0.3.0, ``nel gate``; at least 10 items)."""
    gain = candidate - reference
    reach = stats.t.ppf(0.975, gain.shape[1] - 1) * stats.sem(gain, 1)
    return np.asarray(gain.mean(1) - reach > -margin)


def inference_doctor(reference: Values, candidate: Values, limit: float) -> tuple[Flags, Flags]:
    """PASS and FAIL where Welch's 90 % interval of the logarithm of the ratio of means lies below
    or beyond the limit (inference-doctor 0.4.1, stats.py). Values are medians, [sessions, files].
    """
    parts = [(stats.sem(side, axis=1) / side.mean(1)) ** 2 for side in (reference, candidate)]
    whole = parts[0] + parts[1]
    freedom = whole**2 / sum(part**2 / (reference.shape[1] - 1) for part in parts)
    reach = stats.t.ppf(0.95, freedom) * np.sqrt(whole)
    gap = np.log(candidate.mean(1) / reference.mean(1))
    return np.asarray(gap + reach < math.log(limit)), np.asarray(gap - reach > math.log(limit))


def mlperf(late: Flags, quantile: float) -> float:
    """The share of sessions that LoadGen's early stopping ends as valid, run on as long as it asks
    for more (loadgen/early_stopping.cc and results.cc, revision b66003e): after t late requests
    h others are needed, the fewest with I(q; h, t + 1) ≤ 1 %."""
    needed = np.array(list(_least_in_time(quantile, late.shape[1])))
    passed = 0
    for session in late:
        count, seen = session.cumsum(), int(needed[0])
        while seen <= len(session) and count[seen - 1] < len(needed):
            asked = int(needed[count[seen - 1]] + count[seen - 1])
            if asked <= seen:
                passed += 1
                break
            seen = asked
    return passed / len(late)


def _least_in_time(quantile: float, most: int) -> Iterator[int]:
    """h for t = 0, 1, 2, …"""
    h = 1
    for t in range(most):
        while h <= most and stats.binom.cdf(t, h + t, 1 - quantile) > 0.01:
            h += max(1, math.floor(h / 500))
        yield h
        if h > most:
            return
