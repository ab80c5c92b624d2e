"""An engine compared with itself: what comes by other routes against its own plain pass.

The error of a route is the larger of two:

    all rows     RMS(logits by the route − logits of the plain pass) / (2 · dtype error)
    usual rows   least factor by which the rows' errors exceed the dtype error's (`row_errors`)

The first takes the dtype error of the worst position, as each of the two runs may err by as much: a
few rows that are far off show. The second takes its distribution over the positions: so do many
rows that are a little off, however far off a near-tie makes the worst.

Where either is exceeded, the reference's weights in the same dtype go the same route: what they
differ by is no fault of the engine's, and takes the place of the dtype error if it is larger. So
does what they differ by in plain passes of other lengths (`length_effect`): a near-tie that no
route decides comes at other positions in an engine of other weights.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import torch

from ..errors import InvalidComparisonError
from .dtype_error import (
    OUTPUT_FACTOR,
    dtype_error_of,
    dtype_named,
    host_logits,
    two_runs,
)
from .greedy import greedy_mismatches
from .length_effect import NONE, Difference, difference_of, worst
from .row_errors import least_factor

THE_REFERENCE = "the reference's own weights differ from their plain pass"
Pair = tuple[torch.Tensor, torch.Tensor]  # logits [S, V] of a route, and what they are held to


class Computes(Protocol):
    """What is compared, by its compute dtype's name."""

    @property
    def dtype(self) -> str: ...


class SelfComparison:
    """``errors`` and ``mismatches`` (greedy tokens that no near-tie excuses) by route; ``notes`` on
    routes by which the reference itself comes to something else.

    ``oracle`` and ``plain`` [T, V] are the reference's logits of the prompt in the widest dtype and
    in the engine's. Raises InvalidComparisonError where the oracle is no finer than the engine's
    dtype, or the prompt has fewer than ``least_tokens`` tokens. ``held_to`` is what notes say of a
    route's control.
    """

    def __init__(
        self,
        engine: Computes,
        oracle: torch.Tensor,
        plain: torch.Tensor,
        unit: str,
        least_tokens: int,
        lengths: Callable[[], Difference] = Difference,
        held_to: str = THE_REFERENCE,
    ) -> None:
        self._lengths = lengths
        self._held_to = held_to
        self._name = engine.dtype
        self.dtype = dtype_named(engine.dtype)
        self.errors: dict[str, float] = {}
        self.mismatches: dict[str, int] = {}
        self.notes: list[str] = []
        dtype_error = dtype_error_of(oracle, plain, self.dtype)
        if not dtype_error.usable or len(oracle) < least_tokens:
            raise InvalidComparisonError(
                f"{unit}: {len(oracle)} tokens in {engine.dtype}, whose own cost the oracle does "
                f"not show; set equivalence.oracle to float64, and equivalence.tokens to at least "
                f"{least_tokens}"
            )
        self._dtype_error = dtype_error
        self._granted = two_runs(dtype_error)

    @property
    def two_runs(self) -> float:
        """The RMS that two runs may differ by at a position."""
        return 2 * self._dtype_error.worst

    def add(
        self,
        route: str,
        rows: torch.Tensor,
        exact: torch.Tensor,
        *,
        start: int = 0,
        first: int = 0,
        control: Callable[[], Pair | None] = lambda: None,
    ) -> None:
        """Take the logits [S, V] of a route, the prompt's from position ``start`` on, beside those
        of the plain pass. The error counts rows from ``first`` on; of several calls for one route
        the worst counts. ``control`` gives the logits of the reference's weights in the engine's
        dtype, by the route and of a plain pass; it is called where the engine's differ. Raises
        NonFiniteLogitsError for NaN and infinity."""
        logits = host_logits(rows)
        own = difference_of(logits[first:], exact[first:], self._dtype_error)
        granted = self._granted.rows(start, start + len(logits))
        illegal = len(greedy_mismatches(logits, exact, granted, self.dtype).illegal)
        usual = least_factor(torch.tensor(own.rows), self._dtype_error.usual)
        worst_rows, held_to = own.ratio, NONE
        for of_reference in (partial(self._by_route, route, first, control), self._by_length):
            if max(worst_rows, usual) <= OUTPUT_FACTOR and not illegal:
                break
            known = of_reference()
            held_to = worst([held_to, known])
            worst_rows = own.ratio / max(1.0, held_to.ratio)
            if known.rows:  # what excuses has to be no more than likely
                rows_of_control = torch.tensor(known.rows)
                usual = min(usual, least_factor(torch.tensor(own.rows), rows_of_control, 0.5))
            wider = replace(granted, extremes=granted.extremes + held_to.largest)
            illegal = len(greedy_mismatches(logits, exact, wider, self.dtype).illegal)
        self.errors[route] = max(worst_rows, usual, self.errors.get(route, 0.0))
        self.mismatches[route] = max(illegal, self.mismatches.get(route, 0))

    def add_tokens(
        self,
        route: str,
        tokens: Sequence[int],
        exact: torch.Tensor,
        control: Callable[[], tuple[Sequence[int], torch.Tensor] | None] = lambda: None,
    ) -> None:
        """Take the greedy tokens [S] of a route beside the logits [S, V] of the plain pass that
        they follow from. Those that no near-tie excuses count, less those of the control."""
        illegal = self._illegal_tokens(tokens, exact)
        if illegal and (own := control()) is not None and (owns := self._illegal_tokens(*own)):
            illegal = max(0, illegal - owns)
            self.notes.append(
                f"{route}: {owns} of the reference's own tokens are not those of its plain pass; "
                "the candidate is held to that"
            )
        if illegal:
            illegal = self._illegal_tokens(tokens, exact, self._by_length().largest)
        self.mismatches[route] = max(illegal, self.mismatches.get(route, 0))

    def _illegal_tokens(
        self, tokens: Sequence[int], exact: torch.Tensor, largest: float = 0.0
    ) -> int:
        """``largest`` is what else than rounding may move a logit by."""
        chosen = torch.zeros_like(exact)
        chosen[range(len(exact)), list(tokens)] = 1.0
        extremes = self._granted.extremes[:1] + largest  # the same at every position
        granted = replace(self._granted, extremes=extremes)
        return len(greedy_mismatches(chosen, exact, granted, self.dtype).illegal)

    def _by_route(self, route: str, first: int, control: Callable[[], Pair | None]) -> Difference:
        """What the reference's own weights differ by on this route."""
        if (pair := control()) is None:
            return NONE
        own = difference_of(pair[0][first:], pair[1][first:], self._dtype_error)
        if not own.is_rounding:
            self._note(route, self._held_to, own.ratio)
        return own

    def _by_length(self) -> Difference:
        """What they differ by in plain passes of other lengths, where that is no rounding."""
        effect = self._lengths()
        if effect.is_rounding:
            return Difference(rows=effect.rows)
        self._note("plain passes of other lengths", THE_REFERENCE, effect.ratio)
        return effect

    def _note(self, route: str, held_to: str, ratio: float) -> None:
        note = (
            f"{route}: {held_to}, by {ratio:.3g} times the error of {self._name}; the candidate is "
            "held to that"
        )
        if not any(known.startswith(f"{route}: ") for known in self.notes):
            self.notes.append(note)

    def values(self, error: str, mismatches: str) -> dict[str, float]:
        """The worst route's numbers under the names of two metrics."""
        most = max(self.mismatches.values())
        return {error: max(self.errors.values()), mismatches: float(most)}

    def details(self) -> dict[str, object]:
        """Every route's numbers, and the notes."""
        return {"errors": self.errors, "mismatches": self.mismatches, "notes": self.notes}
