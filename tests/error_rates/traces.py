"""Simulated sessions of which the truth is known: documents, timed pairs, requests, task items."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter  # type: ignore[import-untyped]  # scipy ships no types

Values = NDArray[np.float64]
Generator = np.random.Generator

# Of the logarithm of a token's KL: gives the quantiles that llama.cpp published.
TOKEN_SIGMA = 1.708
CLIP = 5.0


def at_the_limit(documents: Values, clip: float = math.inf, *, each: bool = False) -> Values:
    """Documents scaled so that the mean of what is counted is 1, of all sessions together or of
    each."""
    axis = 1 if each else None
    low = np.full((len(documents), 1) if each else (1, 1), -12.0)
    high = -low  # logarithms of the factor
    for _ in range(40):
        middle = (low + high) / 2
        counted = np.minimum(np.exp(middle) * documents, clip).mean(axis=axis, keepdims=True)
        low, high = np.where(counted < 1, middle, low), np.where(counted < 1, high, middle)
    return np.asarray(np.exp(high) * documents)


def lognormal(tau: float, tokens: int) -> Callable[[Generator, int, int], Values]:
    """Documents of so many lognormal tokens; the documents' own spread is ``tau``."""

    def documents(generator: Generator, sessions: int, units: int) -> Values:
        shape = sessions, units
        if tokens >= 200:  # by a normal approximation of the mean of many
            spread = math.sqrt((math.exp(TOKEN_SIGMA**2) - 1) / tokens)
            sigma = math.sqrt(math.log1p(spread**2))
            means = np.exp(generator.normal(-(sigma**2) / 2, sigma, shape))
        else:
            means = np.zeros(shape)
            for _ in range(tokens):
                means += np.exp(generator.normal(-(TOKEN_SIGMA**2) / 2, TOKEN_SIGMA, shape))
            means /= tokens
        return means * np.exp(generator.normal(0, tau, shape))

    return documents


def catastrophes(every: int, times: float) -> Callable[[Generator, int, int], Values]:
    """One document in so many is so many times worse than the others."""

    def documents(generator: Generator, sessions: int, units: int) -> Values:
        rare = generator.random((sessions, units)) < 1 / every
        ordinary = lognormal(0.3, 512)(generator, sessions, units)
        return np.where(rare, times, 1.0) * ordinary

    return documents


def clusters(size: int, tau: float) -> Callable[[Generator, int, int], Values]:
    """Documents from sources of ``size`` each, alike within a source, in a random order; each
    session's corpus has the same mean."""

    def documents(generator: Generator, sessions: int, units: int) -> Values:
        sources = np.exp(generator.normal(0, tau, (sessions, units // size)))
        rows = np.repeat(sources, size, 1) * np.exp(generator.normal(0, 0.3, (sessions, units)))
        return generator.permuted(rows / rows.mean(axis=1, keepdims=True), axis=1)

    return documents


def coarse(tokens: int, share: float) -> Callable[[Generator, int, int], Values]:
    """Shares of ``tokens`` that are wrong, of which the mean is ``share``."""

    def documents(generator: Generator, sessions: int, units: int) -> Values:
        return generator.binomial(tokens, share, (sessions, units)) / tokens

    return documents


# Pairs of timed requests: noise in logarithms of two consecutive slots, [sessions, pairs, 2].


def independent(generator: Generator, sessions: int, pairs: int) -> Values:
    return generator.normal(0, 0.25, (sessions, pairs, 2))


def heavy_tails(generator: Generator, sessions: int, pairs: int) -> Values:
    return 0.05 * generator.standard_cauchy((sessions, pairs, 2))


def autocorrelated(generator: Generator, sessions: int, pairs: int) -> Values:
    """A first-order load of correlation .98 between slots."""
    return gaussian(0.98)(generator, sessions, 2 * pairs).reshape(sessions, pairs, 2) * 0.4


def drift(generator: Generator, sessions: int, pairs: int) -> Values:
    """Twenty times as slow at the end as at the beginning."""
    slope = np.linspace(0, 3, 2 * pairs).reshape(pairs, 2)
    return independent(generator, sessions, pairs) + slope


def bursts(generator: Generator, sessions: int, pairs: int) -> Values:
    """Now and then ten slots three times as slow."""
    starts = generator.random((sessions, 2 * pairs)) < 0.01
    busy = lfilter(np.ones(10), [1.0], starts, axis=1) > 0
    return independent(generator, sessions, pairs) + 1.1 * busy.reshape(sessions, pairs, 2)


def synchronised(generator: Generator, sessions: int, pairs: int) -> Values:
    """Every other slot is slower: what a fixed order, reference first, would charge to one."""
    return independent(generator, sessions, pairs) * 0.2 + np.array([0.0, 0.08])


def period_of_four(generator: Generator, sessions: int, pairs: int) -> Values:
    """Slow, fast, fast, slow: what the fixed order ABBA would charge to one."""
    slow = np.tile([[0.08, 0.0], [0.0, 0.08]], (pairs // 2, 1))
    return independent(generator, sessions, pairs) * 0.2 + slow


# Requests to one server: logarithms, [sessions, requests].


def gaussian(correlation: float) -> Callable[[Generator, int, int], Values]:
    """Standard normal values, of which neighbours correlate."""

    def requests(generator: Generator, sessions: int, units: int) -> Values:
        shocks = generator.normal(0, math.sqrt(1 - correlation**2), (sessions, units))
        shocks[:, 0] = generator.normal(0, 1, sessions)
        return np.asarray(lfilter([1.0], [1.0, -correlation], shocks, axis=1))

    return requests
