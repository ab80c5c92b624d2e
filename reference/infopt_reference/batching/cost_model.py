"""What a forward pass costs, as a linear function that is fitted to measurements.

    seconds of a step = per_step + per_sequence·B + per_token·T + per_context·C

with B sequences in the step, T tokens that it computes over all of them, and C the keys that these
see: for each sequence, its tokens up to the last one computed. Every coefficient is at least 0: a
negative one would make some other step free.

`CostModel.fit` minimises Σ (model/measured − 1)²: steps of all sizes count alike, long ones would
drown the short ones in seconds. With non-negative coefficients this is a convex problem whose
minimum is an ordinary least-squares solution on some linearly independent columns, so all 15 sets
of columns are tried.

Leaves out: what is not linear, such as steps that fill the machine, or attention within a long
prompt. `CostModel.relative_errors` tells how much that is. Source: Lawson and Hanson 1974, "Solving
Least Squares Problems", chapter 23 (non-negative least squares).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .workload import TraceRequest


@dataclass(frozen=True)
class MeasuredStep:
    """A forward pass that was timed: its seconds, and what it computed."""

    seconds: float
    batch_size: int
    num_tokens: int
    num_context_tokens: int = 0

    @property
    def terms(self) -> tuple[int, int, int, int]:
        """What each coefficient is multiplied with."""
        return 1, self.batch_size, self.num_tokens, self.num_context_tokens


@dataclass(frozen=True)
class CostModel:
    """Seconds of steps, and of whole batches.

    Raises:
        ValueError: a coefficient is negative, or all are 0.
    """

    per_step: float
    per_sequence: float = 0.0
    per_token: float = 0.0
    per_context: float = 0.0

    def __post_init__(self) -> None:
        for name in ("per_step", "per_sequence", "per_token", "per_context"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 seconds or more")
        if not self.per_step + self.per_sequence + self.per_token + self.per_context:
            raise ValueError("all coefficients are 0, and steps take no time; give one above 0")

    def step(self, batch_size: int, num_tokens: int, num_context_tokens: int = 0) -> float:
        """Seconds of one forward pass."""
        return self._seconds(1, batch_size, num_tokens, num_context_tokens)

    def batch(self, requests: Sequence[TraceRequest]) -> float:
        """Seconds of a batch that is padded, and runs until the longest output ends.

        One pass over the longest prompt, then one for each further token of the longest output, all
        with all requests.
        """
        size = len(requests)
        prompt = max(request.prompt_tokens for request in requests)
        steps = max(request.output_tokens for request in requests)
        # In step j of ``steps``, every sequence sees prompt + j keys.
        context = prompt * steps + steps * (steps - 1) // 2
        return self._seconds(steps, size * steps, size * (prompt + steps - 1), size * context)

    def _seconds(self, steps: int, sequences: int, tokens: int, context: int) -> float:
        """Seconds of passes, with what they compute in all."""
        return (
            self.per_step * steps
            + self.per_sequence * sequences
            + self.per_token * tokens
            + self.per_context * context
        )

    @classmethod
    def fit(cls, measured: Iterable[MeasuredStep]) -> CostModel:
        """The model with the least squared relative errors. What never varies alone gets no share.

        Raises:
            ValueError: there is no measurement, or one that took no time.
        """
        design, seconds = _design(measured)
        weighted = design / seconds[:, None]
        norms = np.linalg.norm(weighted, axis=0)  # seconds and token counts differ by magnitudes
        weighted /= np.where(norms > 0, norms, 1)
        best, least = np.zeros(len(norms)), float(len(seconds))  # a model that says 0
        for count in range(1, len(norms) + 1):
            for columns in map(list, combinations(range(len(norms)), count)):
                if np.linalg.matrix_rank(weighted[:, columns]) < count:
                    continue
                found = np.linalg.lstsq(weighted[:, columns], np.ones(len(seconds)), rcond=None)[0]
                residual = float(np.sum((weighted[:, columns] @ found - 1) ** 2))
                if (found >= 0).all() and residual < least:
                    best, least = np.zeros(len(norms)), residual
                    best[columns] = found / norms[columns]
        return cls(*best.tolist())

    def relative_errors(self, measured: Iterable[MeasuredStep]) -> NDArray[np.float64]:
        """model/measured − 1 of each step."""
        design, seconds = _design(measured)
        coefficients = [self.per_step, self.per_sequence, self.per_token, self.per_context]
        errors: NDArray[np.float64] = design @ np.array(coefficients) / seconds - 1
        return errors


def _design(
    measured: Iterable[MeasuredStep],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The terms [N, 4] and seconds [N] of measured steps."""
    steps = list(measured)
    seconds = np.array([step.seconds for step in steps], dtype=np.float64)
    if not len(steps) or not (seconds > 0).all():
        raise ValueError("give one measured step at least, each of more than 0 seconds")
    return np.array([step.terms for step in steps], dtype=np.float64), seconds
