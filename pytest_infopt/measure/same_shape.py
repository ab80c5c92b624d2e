"""Passes of one shape, in which nothing that the compared rows depend on was changed.

The same pass again, other neighbours in a batch, other tokens behind: a kernel sums the same
numbers in the same order, so no bit may differ. What differs is counted in rows. Where shapes
inside follow the tokens (`inner_shapes`), or the reference's weights in the same dtype differ too
(kernels that add in no fixed order), the engine is held to twice what those differ by, or to twice
what two runs may differ by in this dtype.

Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Generic, TypeVar

import torch

from .dtype_error import OUTPUT_FACTOR, host_logits, logit_error, row_rms
from .length_effect import Difference
from .self_comparison import Pair

AnyEngine = TypeVar("AnyEngine")


class SameShapeComparison(Generic[AnyEngine]):
    """``differences`` has by route how many rows have other bits; ``notes`` where the first is.

    ``control`` gives the reference's weights in the engine's dtype. It goes a route where the
    engine's bits differ. ``two_runs`` is the RMS that two runs of different shapes may differ by,
    ``lengths`` gives the control's `length_effect`; ``follows_tokens`` says whether shapes inside
    the engine's model do (`shapes_follow_tokens`), and is asked where bits differ.
    """

    def __init__(
        self,
        engine: AnyEngine,
        control: Callable[[], AnyEngine] | None = None,
        two_runs: float = 0.0,
        lengths: Callable[[], Difference] = Difference,
        follows_tokens: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine, self._control = engine, control
        self._two_runs, self._lengths = two_runs, lengths
        self._follows_tokens = cache(follows_tokens)
        self.differences: dict[str, int] = {}
        self.largest: dict[str, float] = {}  # the largest RMS difference of a row, by route
        self.notes: list[str] = []

    def add(
        self,
        pairs_of: Callable[[AnyEngine], Mapping[str, Pair]],
        *,
        same_tokens: bool = False,
    ) -> None:
        """Compare both passes of every route that ``pairs_of`` makes of an engine; ``same_tokens``
        says that they are given the same tokens throughout."""
        own: Mapping[str, Pair] = {}
        for route, pair in pairs_of(self._engine).items():
            different = _different(*pair)
            if bool(different.any()):
                if self._control is not None and not own:
                    own = pairs_of(self._control())
                exact = same_tokens or not self._follows_tokens()
                different &= self._beyond(route, pair, own.get(route), exact)
            self._count(route, different, *pair)

    @property
    def total(self) -> float:
        """Rows with other bits, of all routes."""
        return float(sum(self.differences.values()))

    def details(self) -> dict[str, object]:
        """Every route's numbers."""
        return {"same_shape": self.differences}

    def _beyond(self, route: str, pair: Pair, own: Pair | None, exact: bool) -> torch.Tensor:
        """The rows [R] in which the engine's passes differ by more than they may."""
        of_control = 0.0 if own is None else float(_distances(*own).max())
        if of_control:
            self.notes.append(
                f"{route}: the reference's own weights have other bits, too, in a pass of the same "
                "shape; the candidate is held to what they differ by"
            )
        elif exact:
            return _different(*pair)
        allowed = OUTPUT_FACTOR * max(of_control, self._two_runs)
        distances = _distances(*pair)
        if float(distances.max()) > allowed and not (effect := self._lengths()).is_rounding:
            allowed = max(allowed, effect.largest)
        return distances > allowed

    def _count(
        self, route: str, different: torch.Tensor, rows: torch.Tensor, again: torch.Tensor
    ) -> None:
        count = int(different.sum())
        self.differences[route] = self.differences.get(route, 0) + count
        if not count:
            return
        distances = _distances(rows, again)
        self.largest[route] = max(self.largest.get(route, 0.0), float(distances.max()))
        first = int(different.nonzero()[0])
        self.notes.append(
            f"{route}: {count} of {len(different)} rows have other bits although the pass has the "
            f"same shape, row {first} first, by up to {self.largest[route]:.3g}"
        )


def _different(rows: torch.Tensor, again: torch.Tensor) -> torch.Tensor:
    return (rows != again).any(-1)


def _distances(rows: torch.Tensor, again: torch.Tensor) -> torch.Tensor:
    """RMS difference of each row, [R]."""
    return row_rms(logit_error(host_logits(rows), host_logits(again)))
