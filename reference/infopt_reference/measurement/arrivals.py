"""When requests are due: arrival processes, and traces of real ones.

A server's users do not wait for each other. So in an *open* load the moments are known before the
first request is sent, and no answer changes them: Poisson arrivals (gaps −ln U / λ), bursts, or the
moments of a recorded trace. Source of the trace's format: Mooncake (arXiv 2407.00079), which vLLM's
and AIPerf's benchmarks read too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["TracedRequest", "bursts", "poisson", "read_trace"]


@dataclass(frozen=True)
class TracedRequest:
    """A recorded request: when it was due, in seconds after the first, and its lengths."""

    due: float
    prompt_tokens: int
    new_tokens: int


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """``count`` moments in seconds, ``rate`` a second on average; the first at 0."""
    if not rate > 0:
        raise ValueError(f"the rate is {rate} requests a second; it has to be above 0")
    coin = random.Random(seed)
    return list(accumulate([0.0, *(coin.expovariate(rate) for _ in range(count - 1))]))


def bursts(size: int, rate: float, count: int) -> list[float]:
    """``count`` moments in bursts of ``size``, ``rate`` a second on average."""
    if not (rate > 0 and size >= 1):
        raise ValueError(f"bursts of {size} at {rate} requests a second; both have to be above 0")
    return [(place // size) * size / rate for place in range(count)]


def read_trace(lines: Iterable[str]) -> list[TracedRequest]:
    """The requests of a trace, one JSON object a line, in order of their moments.

    ``timestamp`` is in milliseconds, ``input_length`` and ``output_length`` in tokens. Raises
    ValueError for a line that is none, and for a trace without a request.
    """
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            made = TracedRequest(
                float(row["timestamp"]) / 1000, int(row["input_length"]), int(row["output_length"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"line {number} of the trace is {line.strip()[:80]!r}; it takes a JSON object with "
                "timestamp (ms), input_length and output_length"
            ) from error
        if min(made.due, made.prompt_tokens - 1, made.new_tokens - 1) < 0:
            raise ValueError(f"line {number} of the trace: {made}; lengths are 1 or more, times 0")
        found.append(made)
    if not found:
        raise ValueError("the trace holds no request")
    found.sort(key=lambda request: request.due)
    first = found[0].due
    return [TracedRequest(r.due - first, r.prompt_tokens, r.new_tokens) for r in found]
