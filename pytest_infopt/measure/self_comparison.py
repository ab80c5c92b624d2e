"""An engine compared with itself: what comes by other routes against its own plain pass.

    error of a route = RMS(logits by the route − logits of the plain pass) / (2 · dtype error)

with the dtype error's worst position (`dtype_error`): each of the two runs may err by as much.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import torch

from ..engines.base import Engine
from ..errors import InvalidComparisonError
from .dtype_error import dtype_error_of, dtype_named, host_logits, rms, two_runs
from .greedy import greedy_mismatches


class SelfComparison:
    """``errors`` and ``mismatches`` (greedy tokens that no near-tie excuses) by route.

    ``oracle`` and ``plain`` [T, V] are the reference's logits of the prompt in the widest dtype and
    in the engine's. Raises InvalidComparisonError where the oracle is no finer than the engine's
    dtype, or the prompt has fewer than ``least_tokens`` tokens.
    """

    def __init__(
        self,
        engine: Engine,
        oracle: torch.Tensor,
        plain: torch.Tensor,
        unit: str,
        least_tokens: int,
    ) -> None:
        self.dtype = dtype_named(engine.dtype)
        self.errors: dict[str, float] = {}
        self.mismatches: dict[str, int] = {}
        dtype_error = dtype_error_of(oracle.detach().cpu().double(), plain, self.dtype)
        if not dtype_error.usable or len(oracle) < least_tokens:
            raise InvalidComparisonError(
                f"{unit}: {len(oracle)} tokens in {engine.dtype}, whose own cost the oracle does "
                f"not show; set equivalence.oracle to float64, and equivalence.tokens to at least "
                f"{least_tokens}"
            )
        self._worst = dtype_error.worst
        self._granted = two_runs(dtype_error)

    def add(
        self, route: str, rows: torch.Tensor, exact: torch.Tensor, *, start: int = 0, first: int = 0
    ) -> None:
        """Take the logits [S, V] of a route, the prompt's from position ``start`` on, beside those
        of the plain pass. The error counts rows from ``first`` on; of several calls for one route
        the worst counts. Raises NonFiniteLogitsError for NaN and infinity."""
        logits = host_logits(rows)
        error = rms((logits - exact)[first:]) / (2 * self._worst)
        granted = self._granted.rows(start, start + len(logits))
        illegal = len(greedy_mismatches(logits, exact, granted, self.dtype).illegal)
        self.errors[route] = max(error, self.errors.get(route, 0.0))
        self.mismatches[route] = max(illegal, self.mismatches.get(route, 0))

    def values(self, error: str, mismatches: str) -> dict[str, float]:
        """The worst route's numbers under the names of two metrics."""
        worst = max(self.mismatches.values())
        return {error: max(self.errors.values()), mismatches: float(worst)}

    def details(self) -> dict[str, dict[str, float] | dict[str, int]]:
        """Every route's numbers."""
        return {"errors": self.errors, "mismatches": self.mismatches}
