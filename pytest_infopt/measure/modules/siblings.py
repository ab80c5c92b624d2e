"""Which modules err more than their siblings do, and than their number format costs.

Siblings are modules of one kind whose weights are kept alike. A module is accused where a figure
exceeds *all* that it may:

    its siblings' envelope                    `envelope`, at the run's rate over all tests
    twice its siblings' median                a fault less than that is no fault of its own
    twice what its dtype costs it             `pair.plain` on the same input

A matrix has to err out of proportion on the text and on normal noise: a few large activations, to
which a calibrated quantizer gives way, move the first alone, and weights that it holds for
unimportant the second alone. Its slope is that on noise, since on a text few weights make it.

Rounding leaves a slope of 0, and cutting weights off takes the square of the error from it: a slope
has to lie outside the envelope as it is, and but for what cutting explains, on the same side. It
has to be significant over the module's own output channels besides. Where the weights are
unquantized, twice what the dtype costs is all that is granted; where there are too few siblings,
other kinds that are kept alike join them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from .. import OUTPUT_FACTOR
from .accusation import Accusation
from .envelope import FEWEST_SIBLINGS, envelope, student_quantile
from .leaves import Figures, Leaf
from .output_errors import OutputErrors

_TESTS = 4  # of a module

Figure = Callable[[OutputErrors], float]
Input = Callable[[Leaf], Figures | None]


@dataclass(frozen=True)
class SiblingJudge:
    """Judges leaves at a false-accusation ``rate`` for all of them together.

    ``lossless``: the candidate's weights are declared to be plain floats; ``couples_rows``: what
    they make of a token depends on the others of the pass, so that no token is judged alone.
    """

    rate: float
    lossless: bool
    couples_rows: bool = False

    def accused(self, leaves: Sequence[Leaf]) -> list[Accusation]:
        """Accusations, the gravest first."""
        suspects = [leaf for leaf in leaves if not leaf.errors.identical]
        rate = self.rate / max(1, _TESTS * len(suspects))
        found = [a for leaf in suspects if (a := self._accuse(leaf, suspects, rate)) is not None]
        return sorted(found, key=lambda accusation: -accusation.times)

    def _accuse(self, leaf: Leaf, suspects: Sequence[Leaf], rate: float) -> Accusation | None:
        if leaf.as_its_dtype:  # whatever its siblings do: permuted heads, say
            return None
        siblings = [other for other in suspects if _alike(leaf, other)]
        if len(siblings) < FEWEST_SIBLINGS:
            siblings = [other for other in suspects if _kept_alike(leaf, other)]
        if self.lossless or len(siblings) < FEWEST_SIBLINGS:
            found = [_against_dtype(leaf)] if self.lossless or leaf.storage.plain else []
            found = found or [_against_format(leaf)]
        else:
            against = _AgainstSiblings(leaf, siblings, rate)
            found = [against.error(), against.channel()]
            if not self.couples_rows:
                found.append(against.token())
            if not leaf.composed:  # what composes several is not linear
                found.append(against.slope())
        return max((a for a in found if a), key=lambda a: a.times, default=None)


def _alike(leaf: Leaf, other: Leaf) -> bool:
    return leaf.kind == other.kind and leaf.storage == other.storage


def _kept_alike(leaf: Leaf, other: Leaf) -> bool:
    """Whether two matrices of any kinds are kept in the same way."""
    return leaf.storage == other.storage and leaf.weights is not None and other.weights is not None


@dataclass(frozen=True)
class _AgainstSiblings:
    """The tests of one leaf, each at ``rate``; it is one of the ``siblings`` itself."""

    leaf: Leaf
    siblings: Sequence[Leaf]
    rate: float

    def slope(self) -> Accusation | None:
        """Rounding leaves none; what is cut off takes the square of the error from it."""
        found = self.leaf.of_weights
        if not math.isfinite(found.errors.slope):
            return None  # then the error is infinite
        significant = student_quantile(self.rate / 2, max(2.0, len(self.siblings) - 1.0))
        ratios = []
        for figure in (_slope, _rest):
            known = envelope(
                [figure(other.of_weights.errors)[0] for other in self.siblings], self.rate / 2
            )
            value, own = figure(found.errors)
            granted = max(known.reach, significant * own, OUTPUT_FACTOR * abs(found.cost.slope))
            ratios.append(_ratio(value - known.location, granted))
        times = min(map(abs, ratios))
        if not times > 1 or ratios[0] * ratios[1] < 0:
            return None
        slope = found.errors.slope
        usual = median(other.of_weights.errors.slope for other in self.siblings)
        return self._accusation(
            f"its outputs are {1 + slope:.4g} times the reference's on the same input; those of "
            f"siblings {1 + usual:.4g} ± {abs(slope - usual) / times:.2g}",
            times,
            "slope",
            slope,
        )

    def error(self) -> Accusation | None:
        """Of all outputs together."""
        value, granted = self._least(lambda e: e.error)
        usual = median(other.errors.error for other in self.siblings)
        return self._beyond(
            value,
            granted,
            f"its outputs err by {self.leaf.errors.error:.3g} of their size, siblings' by "
            f"{usual:.3g}",
            "error",
        )

    def channel(self) -> Accusation | None:
        """Of the worst output channel."""
        value, granted = self._least(lambda e: e.channel_error)
        what = f"output channel {self.leaf.errors.channel} errs by {value:.3g} of its size"
        return self._beyond(value, granted, what, "worst channel")

    def token(self) -> Accusation | None:
        """Of the worst token; of a matrix, beside what an error of its weights makes of it."""
        uneven = self.leaf.uneven
        value, granted = self._against(lambda e: e.token_error, _uneven if uneven else _on_text)
        row, position = divmod((uneven or self.leaf.text).errors.token, self.leaf.columns)
        what = f"the token at row {row}, position {position} errs by {value:.3g} of its size"
        if uneven:
            what += " more than in another place at half its length"
        return self._beyond(value, granted, what, "worst token")

    def _least(self, figure: Figure) -> tuple[float, float]:
        """A figure and what is granted on that input on which it stands out least."""
        inputs = (_on_text, _on_noise) if self.leaf.noise else (_on_text,)
        return min((self._against(figure, each) for each in inputs), key=lambda f: _ratio(*f))

    def _against(self, figure: Figure, given: Input) -> tuple[float, float]:
        """A figure, and what is granted by the envelope of its logarithm."""
        own = given(self.leaf)
        assert own is not None
        found = [figure(other.errors) for o in self.siblings if (other := given(o)) is not None]
        logs = [math.log(value) for value in found if 0 < value < math.inf]
        granted = OUTPUT_FACTOR * figure(own.cost)
        if len(logs) >= FEWEST_SIBLINGS:
            known = envelope(logs, self.rate)
            reach = max(known.reach, math.log(OUTPUT_FACTOR))
            granted = max(granted, math.exp(min(500.0, known.location + reach)))
        return figure(own.errors), granted

    def _beyond(self, value: float, granted: float, what: str, name: str) -> Accusation | None:
        if not value > granted:
            return None
        said = f"{what}; siblings' envelope grants {granted:.3g}"
        return self._accusation(said, value / granted, name, value)

    def _accusation(self, what: str, times: float, figure: str, value: float) -> Accusation:
        n = len(self.siblings)
        return Accusation(
            self.leaf.name,
            f"{what} (n = {n}, {self.leaf.storage})",
            times,
            evidence={"figure": figure, "value": value, "n": n},
        )


def _slope(errors: OutputErrors) -> tuple[float, float]:
    return errors.slope, errors.slope_error


def _rest(errors: OutputErrors) -> tuple[float, float]:
    return errors.rest, errors.rest_error


def _on_text(leaf: Leaf) -> Figures | None:
    return leaf.text


def _on_noise(leaf: Leaf) -> Figures | None:
    return leaf.noise


def _uneven(leaf: Leaf) -> Figures | None:
    return leaf.uneven


def _ratio(value: float, granted: float) -> float:
    return value / granted if granted else math.copysign(math.inf, value) if value else 0.0


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
    what, value, cost = max(figures, key=lambda f: _ratio(f[1], f[2]))
    if not value > OUTPUT_FACTOR * cost:
        return None
    said = f"{what} by {value:.3g} of their size"
    if 2 * abs(leaf.errors.slope) > leaf.errors.error:
        said = f"its outputs are {1 + leaf.errors.slope:.4g} times the reference's; {said}"
    return Accusation(
        leaf.name,
        f"{said} on the same input, of which the dtype costs {cost:.3g} (at most twice that)",
        _ratio(value, OUTPUT_FACTOR * cost),
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
    error, cost = leaf.of_weights.errors.error, leaf.of_weights.cost.error
    granted = OUTPUT_FACTOR * max(float(step) / math.sqrt(12), cost)
    if not error > granted:
        return None
    return Accusation(
        leaf.name,
        f"its outputs err by {error:.3g} of their size on normal noise; {leaf.storage} has no "
        f"siblings here, and rounding to {bits} bits costs {granted / OUTPUT_FACTOR:.3g} (at most "
        "twice that)",
        error / granted,
        evidence={"figure": "weight error", "value": error},
    )
