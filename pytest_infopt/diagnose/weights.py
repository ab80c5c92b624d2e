"""Where a candidate's weights or computation part from its reference's, in sentences and a table.

The order: the first module whose error rises above the noise floor; the modules whose swap back
recovers most of the loss; whether the model is broken (`ModuleComparison` accuses some of its
modules, at a declared rate of false accusations) or degraded (each errs as its number format
explains); the controls of the swaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from ..measure import OUTPUT_FACTOR
from ..measure.modules import Accusation, Models, ModuleComparison, batch_inputs
from ..results.measured_table import MeasuredTable, Plot
from .profile import ErrorProfile, ModuleErrors
from .subjects import Subjects
from .swaps import Swap, Swaps

__all__ = ["BROKEN", "DEGRADED", "SOUND", "WeightsDiagnosis"]

BROKEN, DEGRADED, SOUND = "broken", "degraded", "sound"
_MOST = 0.5  # of the loss
_NAMED = 3  # modules that a sentence names
_FALSE_ACCUSATIONS = 0.001  # probability that a sound candidate is called broken


class WeightsDiagnosis:
    """Computes everything once; ``sentences``, ``table`` and ``figures`` say it."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self.profile = ErrorProfile(subjects).errors
        self.modules = ModuleComparison(_models(subjects), _FALSE_ACCUSATIONS)
        source = subjects.plain if self.lossless else subjects.reference
        self.swaps = Swaps(subjects, self.profile, source)
        one_by_one = not self.lossless and not self.accused
        self.path = self.swaps.path(one_by_one=one_by_one) if self.swaps.loss else []

    @property
    def lossless(self) -> bool:
        """Whether the candidate's weights are the reference's, but for the dtype."""
        return self.modules.lossless

    @cached_property
    def accused(self) -> list[Accusation]:
        """The modules outside what their format explains, in the order of computing."""
        order = list(self.profile)

        def place(accusation: Accusation) -> int:
            name = accusation.module
            while name and name not in self.profile:  # an expert of a stack
                name = name.rpartition(".")[0]
            return order.index(name) if name in self.profile else len(order)

        return sorted(self.modules.accused, key=place)

    @cached_property
    def kind(self) -> str:
        """Broken: some modules are outside what their format explains. Degraded: none is."""
        if self.accused or self.modules.constants:
            return BROKEN
        return DEGRADED if self.swaps.loss else SOUND

    @cached_property
    def first(self) -> str | None:
        """The first module whose error rises above the noise floor."""
        accused = [accusation.module for accusation in self.accused]
        risen = None
        if self.lossless:
            risen = next((e.name for e in self.profile.values() if _rises(e)), None)
        if risen is None:
            return next(iter(accused), None)
        # What was given something wrong by a function between modules is not itself at fault.
        return next((name for name in accused if risen.startswith(f"{name}.")), risen)

    @property
    def most(self) -> Swap | None:
        """The innermost swap that recovers most of the loss, if one does."""
        found = [swap for swap in self.path if swap.recovered >= _MOST]
        return found[-1] if found else None

    @cached_property
    def _accused_swapped(self) -> Swap | None:
        """Of all that are accused, where the path has not ended at them."""
        pairs = self._subjects.paired.pairs
        names = [accusation.module for accusation in self.accused if accusation.module]
        names = list(dict.fromkeys(n if n in pairs else n.rpartition(".")[0] for n in names))
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
        layer = self._subjects.layer_of(self.first)
        where = "" if layer is None else f", in layer {layer}"
        found = self.profile.get(self.first)
        if found is not None and found.candidate.relative:
            where += f" (error {_percent(found.candidate.relative)} of its output"
            where += f", rounding {_percent(found.floor.relative)})"
        yield f"first module above the noise floor: {self.first or 'the whole model'}{where}"

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
        compared = len(self.modules.leaves.leaves)
        if self.modules.undecided:
            yield f"broken or degraded is not known: {self.modules.undecided}"
        elif self.kind == DEGRADED:
            yield f"degraded: each of {compared} modules errs as its number format explains"
        elif self.kind == SOUND:
            yield "it computes, bit for bit, what the reference's weights compute in its dtype"
        else:
            gravest = sorted(self.accused, key=lambda accusation: -accusation.times)
            found = [str(each) for each in [*gravest, *self.modules.constants]]
            more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
            listed = "; ".join(found[:_NAMED])
            yield f"broken: outside what the number format explains: {listed}{more}"
            if (swap := self._accused_swapped) is not None:
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
        yield from self.modules.not_compared
        if self._subjects.deadline.passed:
            yield "stopped at the time limit ([diagnose] seconds): the rest was left out"

    @cached_property
    def layers(self) -> list[Swap]:
        """The sensitivity of each decoder layer: what it recovers alone."""
        return self.swaps.of_layers() if self.swaps.loss else []

    def table(self) -> MeasuredTable:
        """A row for each decoder layer: the errors at its end, and what it recovers."""
        recovered = {swap.names[0]: swap.recovered for swap in self.layers}
        rows = []
        for name in self._subjects.layer_names:
            errors = self.profile.get(name)
            if errors is None:
                continue
            rows.append(
                (
                    name,
                    errors.candidate.sqnr_db,
                    errors.candidate.cosine,
                    100 * errors.candidate.relative,
                    100 * errors.floor.relative,
                    100 * recovered[name] if name in recovered else None,
                )
            )
        columns = (
            "layer",
            "SQNR, dB",
            "cosine",
            "error, %",
            "floor, %",
            "swap recovers, %",
        )
        plot = Plot(
            "layer", ("error, %", "floor, %"), "relative error, %", ordered=True, log_y=True
        )
        title = "hidden states, candidate against reference"
        return MeasuredTable(title, columns, tuple(rows), plot=plot)

    @property
    def figures(self) -> dict[str, Any]:
        """What was found, as data."""
        return {
            "lossless": self.lossless,
            "kind": self.kind,
            "first": self.first,
            "outliers": [accusation.module for accusation in self.accused],
            "constants": [str(constant) for constant in self.modules.constants],
            "loss_nats": self.swaps.loss,
            "swaps": [[swap.names[0], swap.recovered] for swap in self.path],
            "layers": [[swap.names[0], swap.recovered] for swap in self.layers],
        }


def _models(subjects: Subjects) -> Models:
    reference, candidate, plain = subjects.reference, subjects.candidate, subjects.plain
    return Models(
        reference.module,
        candidate.module,
        plain.module,
        batch_inputs(reference, subjects.texts),
        subjects.dtype,
        min(reference.vocabulary, candidate.vocabulary),
        reference.decode,
    )


def _rises(errors: ModuleErrors) -> bool:
    return errors.candidate.relative > OUTPUT_FACTOR * errors.floor.relative


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
