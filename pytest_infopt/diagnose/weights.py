"""Where a candidate's weights or computation part from its reference's, in sentences and a table.

The order: the first module whose error rises above the noise floor; the modules whose swap back
recovers most of the loss; whether the model is broken (few modules far outside what their format
explains) or degraded (all of them within it); the controls of the swaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from ..measure import OUTPUT_FACTOR
from ..results.measured_table import MeasuredTable
from .outliers import Outlier, Outliers
from .profile import ErrorProfile, ModuleErrors
from .subjects import Subjects
from .swaps import Swap, Swaps

__all__ = ["BROKEN", "DEGRADED", "SOUND", "WeightsDiagnosis"]

BROKEN, DEGRADED, SOUND = "broken", "degraded", "sound"
_MOST = 0.5  # of the loss
_NAMED = 3  # modules that a sentence names


class WeightsDiagnosis:
    """Computes everything once; ``sentences``, ``table`` and ``figures`` say it."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self.profile = ErrorProfile(subjects).errors
        self.outliers = Outliers(self.profile)
        source = subjects.plain if self.outliers.lossless else subjects.reference
        self.swaps = Swaps(subjects, self.profile, source)
        one_by_one = not self.outliers.lossless and not self.outliers.found
        self.path = self.swaps.path(one_by_one=one_by_one) if self.swaps.loss else []

    @cached_property
    def kind(self) -> str:
        """Broken: some modules are far outside what their format explains, or nearly the whole loss
        comes from one of them. Degraded: none is."""
        if not self.swaps.loss and not self.outliers.found:
            return SOUND
        return BROKEN if self.outliers.found else DEGRADED

    @cached_property
    def first(self) -> Outlier | None:
        """The first module whose error rises above the noise floor."""
        if not self.outliers.lossless:
            return next(iter(self.outliers.found), None)
        risen = next((e for e in self.profile.values() if self._rises(e)), None)
        if risen is None:
            return next(iter(self.outliers.found), None)
        # What was given something wrong by a function between modules is not itself at fault.
        around = [o for o in self.outliers.found if risen.name.startswith(f"{o.name}.")]
        if around:
            return around[0]
        error, floor = risen.end_to_end.relative, risen.floor.relative
        return Outlier(risen.name, error, floor, error / floor if floor else float("inf"))

    def _rises(self, errors: ModuleErrors) -> bool:
        return errors.end_to_end.relative > OUTPUT_FACTOR * errors.floor.relative

    @property
    def most(self) -> Swap | None:
        """The innermost swap that recovers most of the loss, if one does."""
        found = [swap for swap in self.path if swap.recovered >= _MOST]
        return found[-1] if found else None

    @cached_property
    def _outliers_swapped(self) -> Swap | None:
        """Of all that stand out, where the path has not ended at them."""
        names = [outlier.name for outlier in self.outliers.found if outlier.name]
        if not names or not self.swaps.loss or (self.path and names == [*self.path[-1].names]):
            return None
        return self.swaps.of(names)

    @property
    def sentences(self) -> list[str]:
        return [*self._first(), *self._swapped(), *self._class(), *self._controls(), *self._left()]

    def _first(self) -> Iterator[str]:
        if self.first is None:
            yield "no module's error rises above the noise floor of its number format"
            return
        layer = self._subjects.layer_of(self.first.name)
        where = "" if layer is None else f", in layer {layer}"
        yield f"first module above the noise floor: {self.first}{where}"

    def _swapped(self) -> Iterator[str]:
        if not self.path:
            return
        steps = ", ".join(f"{s.names[0]} {_percent(s.recovered)}" for s in self.path)
        loss = f"mean KL {self.swaps.loss:.3g} nats on {len(self._subjects.texts)} texts"
        if self.most is None:
            yield f"no part swapped alone recovers most of the loss ({loss}): at best {steps}"
        else:
            yield (
                f"swapped back to the reference's, {self.most.names[0]} recovers "
                f"{_percent(self.most.recovered)} of the loss ({loss} → "
                f"{self.most.loss:.3g}): {steps}"
            )

    def _class(self) -> Iterator[str]:
        found, compared = self.outliers.found, self.outliers.compared
        if self.kind == DEGRADED:
            yield f"degraded: each of {compared} modules errs as its number format explains"
        elif self.kind == SOUND:
            yield "it computes, bit for bit, what the reference's weights compute in its dtype"
        else:
            gravest = sorted(found, key=lambda outlier: -outlier.times)[:_NAMED]
            listed = "; ".join(map(str, gravest))
            more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            yield f"broken: outside what the number format explains: {listed}{more}"
            if (swap := self._outliers_swapped) is not None:
                yield f"with them swapped back, {_percent(swap.recovered)} of the loss is recovered"

    def _controls(self) -> Iterator[str]:
        if not self.path:
            return
        changed, whole = self.swaps.swapped_for_themselves(), self.swaps.all_swapped()
        yield (
            f"controls: modules swapped for themselves change {changed} logits, all swapped "
            f"recover {_percent(whole.recovered)}"
        )

    def _left(self) -> Iterator[str]:
        unpaired = list(self._subjects.paired.unpaired)
        if unpaired:
            named = ", ".join(unpaired[:_NAMED])
            yield f"not compared, without a partner in the candidate: {len(unpaired)} ({named})"
        refused = [errors.name for errors in self.profile.values() if errors.refused]
        if refused:
            named = ", ".join(refused[:_NAMED])
            yield f"not compared, since they refuse the reference's input: {len(refused)} ({named})"
        if self._subjects.deadline.passed:
            yield "stopped at the time limit ([diagnose] seconds): the rest was left out"

    @cached_property
    def layers(self) -> list[Swap]:
        """The sensitivity of each decoder layer: what it recovers alone."""
        return self.swaps.of_layers() if self.swaps.loss else []

    def table(self) -> MeasuredTable:
        """A row for each decoder layer: errors at its end and by itself, and what it recovers."""
        recovered = {swap.names[0]: swap.recovered for swap in self.layers}
        rows = []
        for name in self._subjects.layer_names:
            errors = self.profile.get(name)
            if errors is None:
                continue
            rows.append(
                (
                    name,
                    errors.end_to_end.sqnr_db,
                    errors.end_to_end.cosine,
                    100 * errors.end_to_end.relative,
                    100 * errors.floor.relative,
                    100 * errors.alone.relative,
                    100 * recovered[name] if name in recovered else None,
                )
            )
        columns = (
            "layer",
            "SQNR, dB",
            "cosine",
            "error, %",
            "floor, %",
            "by itself, %",
            "swap recovers, %",
        )
        return MeasuredTable("hidden states, candidate against reference", columns, tuple(rows))

    @property
    def figures(self) -> dict[str, Any]:
        """What was found, as data."""
        return {
            "lossless": self.outliers.lossless,
            "kind": self.kind,
            "first": None if self.first is None else self.first.name,
            "outliers": [outlier.name for outlier in self.outliers.found],
            "loss_nats": self.swaps.loss,
            "swaps": [[swap.names[0], swap.recovered] for swap in self.path],
            "layers": [[swap.names[0], swap.recovered] for swap in self.layers],
        }


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
