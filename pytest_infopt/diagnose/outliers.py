"""Which modules err more than their number format explains.

What a format costs is known where the candidate's weights are the reference's in its dtype; of
quantized weights it is what the siblings err by, the modules of one kind in the other layers. Then
a module stands out whose error is more than twice the siblings' median and further from it than
any of a normal distribution would be; and one whose outputs are larger or smaller as a whole, as
rounding makes none. A matrix has to stand out on normal noise as well as on the text: a few large
activations, which bring out single weights, move the latter alone. This finds where a candidate is
broken that has failed already: it accuses none that has passed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from ..measure import OUTPUT_FACTOR
from ..measure.paired_modules import kind_of
from .output_error import OutputError
from .profile import ModuleErrors

__all__ = ["Outlier", "Outliers"]

_DEVIATIONS = 6.0  # one of a thousand million of a normal distribution lies so far out
_MAD = 1.4826  # standard deviations of a normal distribution in a median absolute deviation
_FEWEST = 4  # siblings that can tell what is usual


@dataclass(frozen=True)
class Outlier:
    """A module whose own error is ``times`` what is explained, ``explained``; both relative."""

    name: str
    error: float
    explained: float
    times: float
    slope: float = 0.0  # where it is that which stands out

    def __str__(self) -> str:
        if self.slope:
            way = "large" if self.slope > 0 else "small"
            return f"{self.name} (its outputs are {100 * abs(self.slope):.2g} % too {way})"
        return (
            f"{self.name} (error {100 * self.error:.3g} % of its output by itself, explained "
            f"{100 * self.explained:.2g} %)"
        )


class Outliers:
    """``errors`` of an `ErrorProfile`."""

    def __init__(self, errors: Mapping[str, ModuleErrors]) -> None:
        self._errors = {
            name: found for name, found in errors.items() if found.alone.seen and not found.refused
        }

    @cached_property
    def lossless(self) -> bool:
        """Whether most matrices err by what the dtype costs: the weights are the reference's."""
        matrices = [found for found in self._leaves if _has_matrix(found)]
        return 2 * sum(not _above_dtype(found) for found in matrices) >= len(matrices)

    @cached_property
    def _leaves(self) -> list[ModuleErrors]:
        return [found for found in self._errors.values() if found.pair.is_leaf]

    @property
    def compared(self) -> int:
        """How many modules without modules inside were compared."""
        return len(self._leaves)

    @cached_property
    def found(self) -> list[Outlier]:
        """The innermost modules that stand out, in the order of computing."""
        outside = {
            name: outlier
            for name, found in self._errors.items()
            if (outlier := self._outlier(found)) is not None
        }
        return [
            outlier
            for name, outlier in outside.items()
            if not any(_lies_in(other, name) for other in outside)
        ]

    def _outlier(self, found: ModuleErrors) -> Outlier | None:
        if not _above_dtype(found):
            return None
        siblings = self._siblings(found)
        if not self.lossless and not siblings and not found.pair.is_leaf:
            return None  # it holds quantized ones, and there is none like it
        if self.lossless or not siblings:
            cost = found.own_floor.relative
            return Outlier(
                found.name, found.alone.relative, cost, _ratio(found.alone.relative, cost)
            )
        outlier = self._error(found, siblings)
        if outlier is None and found.pair.is_leaf:  # what composes several is not linear
            outlier = self._slope(found, siblings)
        return outlier

    def _siblings(self, found: ModuleErrors) -> Sequence[ModuleErrors]:
        """Modules of its kind; where there are few, all that are quantized as it may be; none for
        one that has no matrix, and that no format rounds."""
        kind = kind_of(found.name)
        siblings = [other for other in self._errors.values() if kind_of(other.name) == kind]
        if len(siblings) >= _FEWEST:
            return siblings
        if not _has_matrix(found):
            return []
        return [other for other in self._leaves if _has_matrix(other) and _above_dtype(other)]

    def _error(self, found: ModuleErrors, siblings: Sequence[ModuleErrors]) -> Outlier | None:
        usual = [_usual_error(found, siblings, choose) for choose in _figures(found)]
        if any(explained is None for explained in usual):
            return None
        error = found.alone.relative
        explained = usual[0] or 0.0
        return Outlier(found.name, error, explained, _ratio(error, explained))

    def _slope(self, found: ModuleErrors, siblings: Sequence[ModuleErrors]) -> Outlier | None:
        excesses = [_slope_excess(found, siblings, choose) for choose in _figures(found)]
        times = min(excesses)
        if times <= 1:
            return None
        slope = found.alone.slope - median(other.alone.slope for other in siblings)
        return Outlier(found.name, found.alone.relative, abs(slope) / times, times, slope)


Figure = Callable[[ModuleErrors], OutputError]


def _alone(found: ModuleErrors) -> OutputError:
    return found.alone


def _on_noise(found: ModuleErrors) -> OutputError:
    return found.on_noise


def _figures(found: ModuleErrors) -> list[Figure]:
    """By which a module has to stand out, by all of them."""
    return [_alone, _on_noise] if found.on_noise.seen else [_alone]


def _usual_error(
    found: ModuleErrors, siblings: Sequence[ModuleErrors], choose: Figure
) -> float | None:
    """What siblings err by, where the module errs by much more; else None."""
    logs = [math.log(e) for other in siblings if (e := choose(other).relative)]
    error = choose(found).relative
    if not logs or not error:
        return None
    middle, spread = _usual(logs)
    reach = max(math.log(OUTPUT_FACTOR), _DEVIATIONS * spread)
    return math.exp(middle) if math.log(error) - middle > reach else None


def _slope_excess(found: ModuleErrors, siblings: Sequence[ModuleErrors], choose: Figure) -> float:
    """How many times the reach of siblings and of chance the module's slope is from theirs."""
    middle, spread = _usual([choose(other).slope for other in siblings])
    own = choose(found)
    reach = max(
        _DEVIATIONS * spread,
        _DEVIATIONS * own.slope_error,
        OUTPUT_FACTOR * abs(found.own_floor.slope),
    )
    return _ratio(abs(own.slope - middle), reach)


def _usual(values: Sequence[float]) -> tuple[float, float]:
    """Median, and standard deviation by the median absolute deviation."""
    middle = median(values)
    return middle, _MAD * median(abs(value - middle) for value in values)


def _above_dtype(found: ModuleErrors) -> bool:
    return found.alone.relative > OUTPUT_FACTOR * found.own_floor.relative


def _has_matrix(found: ModuleErrors) -> bool:
    return any(parameter.ndim >= 2 for parameter in found.pair.reference.parameters(recurse=False))


def _ratio(error: float, cost: float) -> float:
    return error / cost if cost else math.inf


def _lies_in(name: str, other: str) -> bool:
    return name != other and (not other or name.startswith(f"{other}."))
