"""The times of one streamed request, by their definitions.

    TTFT = first arrival − sent                ITL_i = arrival_{i+1} − arrival_i
    TPOT = (last arrival − first) / (n − 1)    E2E   = last arrival − sent

An arrival is that of a token id: tokens that come in one chunk have gaps of 0, and a chunk without
a token (a role, a count of tokens) is none. The time to the first token is no gap. One token has
no gap, and so no TPOT. Sources: vLLM's and SGLang's serving benchmarks define TTFT, TPOT and E2E
alike; their ITL is one of chunks.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

__all__ = ["RequestTiming"]


@dataclass(frozen=True)
class RequestTiming:
    """One request's times in seconds; ``tpot`` is None for a single token, which has no gap."""

    ttft: float
    itl: list[float]
    tpot: float | None
    e2e: float
    token_ids: list[int]

    @classmethod
    def of(cls, sent: float, arrivals: Sequence[float], token_ids: Sequence[int]) -> Self:
        """The times of tokens that arrived at ``arrivals``, on the clock that stamped ``sent``.

        Raises ValueError where no token arrived, and where times run backwards.
        """
        if not arrivals:
            raise ValueError("no token arrived; a request without an answer has no times")
        gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
        ttft = arrivals[0] - sent
        if ttft <= 0 or min(gaps, default=0.0) < 0:
            raise ValueError(
                "a token arrived before its request was sent, or before the token ahead of it; "
                "stamp both with one clock, such as time.perf_counter, as they come"
            )
        return cls(
            ttft=ttft,
            itl=gaps,
            tpot=(arrivals[-1] - arrivals[0]) / len(gaps) if gaps else None,
            e2e=arrivals[-1] - sent,
            token_ids=list(token_ids),
        )
