"""Requests for a simulation: when they arrive, and how long they are.

    requests = trace(poisson(rate=20, count=500, seed=1), lognormal(120, 0.8, 500, seed=2), 64)

Everything drawn depends on its seed alone.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TraceRequest:
    """A request of a trace.

    Args:
        arrival: seconds since the trace began.
        prompt_tokens: 1 or more.
        output_tokens: how many it generates, 1 or more. What is scored or embedded has 1: a single
            pass over its prompt.

    Raises:
        ValueError: a number is out of its range.
    """

    arrival: float
    prompt_tokens: int = 1
    output_tokens: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.arrival < math.inf:
            raise ValueError(f"arrival is {self.arrival}; give seconds, 0 or more")
        for name in ("prompt_tokens", "output_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")


def trace(
    arrivals: Sequence[float],
    prompt_tokens: int | Sequence[int] = 1,
    output_tokens: int | Sequence[int] = 1,
) -> list[TraceRequest]:
    """Requests in the order of their arrival; one length for all, or one for each.

    Raises:
        ValueError: there are not as many lengths as arrivals, or a number is out of its range.
    """
    prompts = _one_each("prompt_tokens", prompt_tokens, len(arrivals))
    outputs = _one_each("output_tokens", output_tokens, len(arrivals))
    requests = [TraceRequest(*x) for x in zip(arrivals, prompts, outputs, strict=True)]
    return sorted(requests, key=lambda request: request.arrival)


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """Arrivals of a Poisson process of ``rate`` requests a second: gaps are exponential.

    Raises:
        ValueError: the rate is not above 0.
    """
    if not 0 < rate < math.inf:
        raise ValueError(f"rate is {rate}; give requests a second, more than 0")
    generator, moment, arrivals = random.Random(seed), 0.0, []
    for _ in range(count):
        moment += generator.expovariate(rate)
        arrivals.append(moment)
    return arrivals


def bursts(size: int, interval: float, count: int) -> list[float]:
    """``count`` arrivals, ``size`` of them at once, one such burst every ``interval`` seconds.

    Raises:
        ValueError: the size is less than 1, or the interval negative.
    """
    if size < 1 or not interval >= 0:
        raise ValueError(
            f"bursts of {size} every {interval} s; give 1 request or more, 0 seconds or more"
        )
    return [number // size * interval for number in range(count)]


def lognormal(
    median: float, sigma: float, count: int, seed: int, longest: int | None = None
) -> list[int]:
    """Lengths with a long tail: ln(length) is normal around ln(median); 1 to ``longest`` tokens.

    Raises:
        ValueError: the median or ``longest`` is less than 1, or sigma negative.
    """
    longest = sys.maxsize if longest is None else longest
    if not median >= 1 or not sigma >= 0 or longest < 1:
        raise ValueError(
            f"lengths around {median} with sigma {sigma}, {longest} at most; give a median and a "
            f"longest of 1 or more, sigma 0 or more"
        )
    generator = random.Random(seed)
    drawn = [generator.lognormvariate(math.log(median), sigma) for _ in range(count)]
    return [max(1, min(longest, round(length))) for length in drawn]


def _one_each(name: str, lengths: int | Sequence[int], count: int) -> Sequence[int]:
    if isinstance(lengths, int):
        return [lengths] * count
    if len(lengths) != count:
        raise ValueError(f"{len(lengths)} {name} for {count} arrivals; give one for each, or one")
    return lengths
