"""Which modules err more than their siblings do, and than their number format costs.

Siblings are modules of one kind whose weights are kept alike. A module is accused where a figure
exceeds *all* that it may:

    its siblings' envelope                    `envelope`, at the run's rate over all tests
    twice its siblings' median                a fault less than that is no fault of its own
    twice what its dtype costs it             `pair.plain` on the same input

Its error has to be out of proportion both as it is and as an error of its weights: a few large
activations, to which a calibrated quantizer gives way, move one of the two alone. A slope has to be
significant over the module's own output channels besides. Where the weights are unquantized, twice
what the dtype costs is all that is granted; where there are too few siblings, other kinds that are
kept alike join them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pytest_infopt.measure import OUTPUT_FACTOR

from .accusation import Accusation
from .envelope import FEWEST_SIBLINGS, Envelope, envelope, student_quantile
from .leaves import Leaf
from .output_errors import OutputErrors

_FIGURES = 4  # tests a module


@dataclass(frozen=True)
class SiblingJudge:
    """Judges leaves at a false-accusation ``rate`` for all of them together.

    ``lossless``: the candidate's weights are declared to be plain floats.
    """

    rate: float
    lossless: bool

    def accused(self, leaves: Sequence[Leaf]) -> list[Accusation]:
        """Accusations, the gravest first."""
        suspects = [leaf for leaf in leaves if not leaf.errors.identical]
        rate = self.rate / max(1, _FIGURES * len(suspects))
        found = [a for leaf in suspects if (a := self._accuse(leaf, suspects, rate)) is not None]
        return sorted(found, key=lambda accusation: -accusation.times)

    def _accuse(self, leaf: Leaf, suspects: Sequence[Leaf], rate: float) -> Accusation | None:
        siblings = [other for other in suspects if _alike(leaf, other)]
        if len(siblings) < FEWEST_SIBLINGS:
            siblings = [other for other in suspects if _kept_alike(leaf, other)]
        if self.lossless or len(siblings) < FEWEST_SIBLINGS:
            found = [_against_dtype(leaf)] if self.lossless or leaf.storage.plain else []
            found = found or [_against_format(leaf)]
        else:
            found = [
                _slope(leaf, siblings, rate),
                _error(leaf, siblings, rate),
                _worst(leaf, siblings, rate, "channel", lambda e: e.channel_error),
                _worst(leaf, siblings, rate, "token", lambda e: e.token_error),
            ]
        return max((a for a in found if a), key=lambda a: a.times, default=None)


def _alike(leaf: Leaf, other: Leaf) -> bool:
    return leaf.kind == other.kind and leaf.storage == other.storage


def _kept_alike(leaf: Leaf, other: Leaf) -> bool:
    """Whether two matrices of any kinds are kept in the same way."""
    return leaf.storage == other.storage and leaf.weights is not None and other.weights is not None


def _slope(leaf: Leaf, siblings: Sequence[Leaf], rate: float) -> Accusation | None:
    found = envelope([other.errors.slope for other in siblings], rate / 2)
    own = student_quantile(rate / 2, max(2.0, len(siblings) - 1.0)) * leaf.errors.slope_error
    # Weights that are cut off, as pruning does, take the square of their share with them.
    cut = leaf.errors.weight_error**2 if leaf.errors.weight_error < 1 else 0.0
    granted = max(found.reach, own, OUTPUT_FACTOR * abs(leaf.cost.slope), min(cut, 0.5))
    excess = abs(leaf.errors.slope - found.location)
    if not excess > granted:
        return None
    return Accusation(
        leaf.name,
        f"its outputs are {1 + leaf.errors.slope:.4g} times the reference's on the same input; "
        f"those of {found.n} siblings ({leaf.storage}) {1 + found.location:.4g} ± {granted:.2g}",
        excess / granted,
        evidence={"figure": "slope", "value": leaf.errors.slope, "n": found.n},
    )


def _error(leaf: Leaf, siblings: Sequence[Leaf], rate: float) -> Accusation | None:
    figures: list[tuple[float, float, Envelope]] = []
    for figure in (lambda e: e.error, lambda e: e.weight_error):
        value, granted, found = _against_siblings(leaf, siblings, rate, figure)
        if not value > granted:
            return None
        figures.append((value, granted, found))
    value, granted, found = min(figures, key=lambda f: f[0] / f[1])
    return Accusation(
        leaf.name,
        f"its outputs err by {leaf.errors.error:.3g} of their size; siblings by "
        f"{_median(siblings, lambda e: e.error):.3g} (n = {found.n}, {leaf.storage}), and "
        f"{value / granted:.3g} times what their envelope grants",
        value / granted,
        evidence={"figure": "error", "value": leaf.errors.error, "n": found.n},
    )


def _worst(
    leaf: Leaf,
    siblings: Sequence[Leaf],
    rate: float,
    part: str,
    figure: Callable[[OutputErrors], float],
) -> Accusation | None:
    value, granted, found = _against_siblings(leaf, siblings, rate, figure)
    if not value > granted:
        return None
    where = f"output channel {leaf.errors.channel}"
    if part == "token":
        row, position = divmod(leaf.errors.token, leaf.columns)
        where = f"the token at row {row}, position {position}"
    return Accusation(
        leaf.name,
        f"{where} errs by {value:.3g} of what it should weigh; the worst {part} of siblings by "
        f"{math.exp(found.location):.3g} (n = {found.n}, {leaf.storage}), at most {granted:.3g}",
        value / granted,
        evidence={"figure": f"worst {part}", "value": value, "n": found.n},
    )


def _against_siblings(
    leaf: Leaf, siblings: Sequence[Leaf], rate: float, figure: Callable[[OutputErrors], float]
) -> tuple[float, float, Envelope]:
    """The figure, what is granted, and the envelope of its logarithm."""
    values = [figure(other.errors) for other in siblings]
    found = envelope([math.log(value) for value in values if 0 < value < math.inf], rate)
    granted = max(
        math.exp(min(500.0, found.location + found.reach)),
        OUTPUT_FACTOR * math.exp(found.location),
        OUTPUT_FACTOR * figure(leaf.cost),
    )
    return figure(leaf.errors), granted, found


def _median(siblings: Iterable[Leaf], figure: Callable[[OutputErrors], float]) -> float:
    values = sorted(figure(other.errors) for other in siblings)
    return values[len(values) // 2]


def _against_dtype(leaf: Leaf) -> Accusation | None:
    """Unquantized weights: twice what a plain implementation of this dtype errs by."""
    figures = [
        ("its outputs err", leaf.errors.error, leaf.cost.error),
        (
            f"output channel {leaf.errors.channel} errs",
            leaf.errors.channel_error,
            leaf.cost.channel_error,
        ),
        ("the worst token errs", leaf.errors.token_error, leaf.cost.token_error),
    ]
    what, value, cost = max(figures, key=lambda f: f[1] / f[2] if f[2] else math.inf)
    if not value > OUTPUT_FACTOR * cost:
        return None
    times = value / (OUTPUT_FACTOR * cost) if cost else math.inf
    said = f"{what} by {value:.3g} of their size"
    if 2 * abs(leaf.errors.slope) > leaf.errors.error:
        said = f"its outputs are {1 + leaf.errors.slope:.4g} times the reference's; {said}"
    return Accusation(
        leaf.name,
        f"{said} on the same input, of which the dtype costs {cost:.3g} (at most twice that)",
        times,
        evidence={"figure": "error", "value": value, "cost": cost},
    )


def _against_format(leaf: Leaf) -> Accusation | None:
    """Codes of b bits, and nobody to compare with: twice the error of rounding to the nearest of
    2^b levels between the ± largest weight of each row."""
    bits = leaf.storage.bits
    if leaf.weights is None or not 1 < bits < 16:
        return None
    weight = leaf.weights.float()
    largest, size = weight.abs().amax(-1), weight.square().mean(-1).sqrt()
    step = (largest / (2 ** (bits - 1) - 1)).square().mean().sqrt() / size.square().mean().sqrt()
    granted = OUTPUT_FACTOR * max(float(step) / math.sqrt(12), leaf.cost.weight_error)
    if not leaf.errors.weight_error > granted:
        return None
    return Accusation(
        leaf.name,
        f"its outputs err as if its weights were off by {leaf.errors.weight_error:.3g} of their "
        f"size; {leaf.storage} has no siblings here, and rounding to {bits} bits costs "
        f"{granted / OUTPUT_FACTOR:.3g} (at most twice that)",
        leaf.errors.weight_error / granted,
        evidence={"figure": "weight error", "value": leaf.errors.weight_error},
    )
