"""Two models compared module by module: who is accused or excused, and what was not compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from .. import OUTPUT_FACTOR
from ..paired_modules import PairedModules, pair_modules
from .accusation import Accusation
from .composition import CompositionRun, Mismatch
from .constants import DifferentConstant, different_constants
from .envelope import FEWEST_SIBLINGS
from .excuses import Excuses
from .leaves import Leaf, LeafRun
from .positions import last_position
from .siblings import SiblingJudge
from .table_rows import Decode, is_table, wrong_embeddings, wrong_head_rows

_MOST = 0.5  # of the weights have to be compared for a PASS


@dataclass(frozen=True)
class Models:
    """Three models in one process: ``plain`` has the reference's weights in the candidate's dtype,
    and is the reference itself where that is the same.

    ``inputs`` are keyword arguments of their forward, a batch with a padded row; ``dtype`` is the
    candidate's, ``vocabulary`` how many tokens both have.
    """

    reference: nn.Module
    candidate: nn.Module
    plain: nn.Module
    inputs: Mapping[str, Any]
    dtype: torch.dtype
    vocabulary: int
    decode: Decode
    couples_rows: bool = False  # by its format: a row depends on the others of its pass


class ModuleComparison:
    """Everything that one pass of the reference and one of the candidate show of single modules.

    ``rate`` is the probability that a sound candidate has any module accused.
    """

    def __init__(self, models: Models, rate: float) -> None:
        self._models = models
        self._rate = rate / 3  # leaves, rows of embeddings, rows of the head
        self.paired: PairedModules = pair_modules(models.reference, models.candidate)
        self.compositions = CompositionRun(
            self.paired, self._plain, models.inputs.get("attention_mask")
        )
        self.leaves = LeafRun(
            self.paired.pairs,
            self._plain,
            models.dtype,
            self.compositions.whole,
            last_position(models.reference),
        )
        self.leaves.run(self._reference_pass)
        self.compositions.run(lambda: models.candidate(**models.inputs))

    def _plain(self, name: str) -> nn.Module:
        return self._models.plain.get_submodule(name)

    def _reference_pass(self) -> Any:
        return self._models.reference(**self._models.inputs)

    @cached_property
    def _suspects(self) -> list[Accusation]:
        """All accusations with their excuses, one a module, the gravest first."""
        judge = SiblingJudge(self._rate, self.lossless, self._models.couples_rows)
        found = [*self._wrong_rows(), *judge.accused(list(self.leaves.leaves.values()))]
        found += _of_mismatches(self.compositions.mismatches)
        gravest: dict[str, Accusation] = {}
        for accusation in sorted(found, key=lambda a: -a.times):
            gravest.setdefault(accusation.module, accusation)
        # What a module has from those inside it is no fault of its own.
        parts = [name.rpartition(".")[0] for name in gravest]
        accusations = [
            accusation
            for name, accusation in gravest.items()
            if name not in self.compositions.whole
            or not any(f"{part}.".startswith(f"{name}.") for part in parts)
        ]
        # What a few rows of a table are, no other module can make up for.
        alone = [a for a in accusations if a.evidence.get("few_rows")]
        found = [a for a in accusations if a not in alone]
        return sorted([*alone, *(self._excuses.of(found) if found else [])], key=lambda a: -a.times)

    @cached_property
    def _excuses(self) -> Excuses:
        models = self._models
        return Excuses(self.paired, self._plain, models.dtype, self._reference_pass)

    @property
    def accused(self) -> list[Accusation]:
        return [accusation for accusation in self._suspects if not accusation.excuse]

    @property
    def excused(self) -> list[Accusation]:
        return [accusation for accusation in self._suspects if accusation.excuse]

    @cached_property
    def constants(self) -> list[DifferentConstant]:
        """Constants that differ, but those of modules that another one makes up for."""
        excused = {accusation.module for accusation in self.excused}
        found = different_constants(self.paired.pairs.values())
        return [constant for constant in found if constant.module not in excused]

    @cached_property
    def lossless(self) -> bool:
        """Whether most matrices err by what the dtype costs: the weights are the reference's."""
        matrices = [leaf for leaf in self.leaves.leaves.values() if leaf.weights is not None]
        kept = sum(m.errors.error <= OUTPUT_FACTOR * m.cost.error for m in matrices)
        return 2 * kept >= len(matrices)

    @property
    def undecided(self) -> str:
        """Why nothing can be said, or the empty string."""
        if self.paired.compared_share <= _MOST and not self.accused:
            return (
                f"modules with {self.paired.compared_share:.0%} of the reference's weights have a "
                "partner in the candidate: too few to say anything of it"
            )
        return self._another_basis

    @property
    def _another_basis(self) -> str:
        """What says that layers hand each other something else, which the whole model undoes: then
        the embedding is excused."""
        table = self._models.reference.get_input_embeddings()  # type: ignore[operator]
        for accusation in self.excused:
            pair = self.paired.pairs.get(accusation.module)
            if pair is not None and pair.reference is table:
                return (
                    "hidden states of the candidate are in another basis than the reference's, so "
                    f"its modules cannot be compared one by one: {accusation.excuse}"
                )
        return ""

    def _wrong_rows(self) -> list[Accusation]:
        models, found = self._models, list[Accusation | None]()
        for pair in self.paired.pairs.values():
            if is_table(pair.reference, models.vocabulary):
                found.append(
                    wrong_embeddings(
                        pair,
                        self._plain(pair.name),
                        models.dtype,
                        models.vocabulary,
                        self._rate,
                        models.decode,
                    )
                )
        head = models.reference.get_output_embeddings()  # type: ignore[operator]
        for name, leaf in self.leaves.leaves.items():
            known = self.paired.pairs.get(name)
            if known is not None and known.reference is head and not leaf.errors.identical:
                found.append(wrong_head_rows(leaf, models.vocabulary, self._rate, models.decode))
        return [accusation for accusation in found if accusation is not None]

    def values(self) -> dict[str, float]:
        """The gate's metrics."""
        suspects = [leaf for leaf in self.leaves.leaves.values() if not leaf.errors.identical]
        return {
            "accused_modules": float(len(self.accused)),
            "constants_differing": float(len(self.constants)),
            "largest_slope_change": max((abs(s.errors.slope) for s in suspects), default=0.0),
            "largest_module_error": max(
                (_relative_error(s, suspects) for s in suspects), default=0.0
            ),
        }

    def notes(self, most: int = 5) -> list[str]:
        """What a person should read, in sentences; ``most`` accusations."""
        found = [f"accused: {accusation}" for accusation in self.accused[:most]]
        if len(self.accused) > most:
            found.append(f"{len(self.accused) - most} more modules are accused (result.json)")
        found += [f"constant: {constant}" for constant in self.constants[:most]]
        if self.excused:
            first = self.excused[0]
            found.append(
                f"{len(self.excused)} modules differ from the reference's, and others make up for "
                f"them: {first.module} first ({first.excuse})"
            )
        return found + self.not_compared

    @property
    def not_compared(self) -> list[str]:
        """What was left out, or fed with other tokens, in sentences."""
        parts = {
            "have no partner in the candidate": list(self.paired.unpaired),
            "refused the reference's input": list(self.leaves.failed),
            "were not called by these texts": self.leaves.not_tried,
            "were compared as a whole, since their parts are arranged otherwise": sorted(
                self.compositions.whole
            ),
        }
        found = [
            f"{len(names)} modules {why}: {', '.join(names[:3])}{'…' if names[3:] else ''}"
            for why, names in parts.items()
            if names
        ]
        if self.leaves.unrouted:
            found.append(
                f"{self.leaves.unrouted} experts got no token of these texts from the router; they "
                "were fed tokens of others"
            )
        return found


def _of_mismatches(mismatches: Sequence[Mismatch]) -> list[Accusation]:
    """One accusation for each module that composes its parts otherwise, by its first place."""
    first: dict[str, Mismatch] = {}
    for mismatch in mismatches:
        first.setdefault(mismatch.module, mismatch)
    return [
        Accusation(
            m.module,
            f"from the same parts it makes something else than the reference: {m.place} is off by "
            f"{m.error:.3g} of its size at row {m.row}, position {m.position} (channels "
            f"{', '.join(map(str, m.channels))}), {m.times:.3g} times what rounding explains",
            m.times,
            part="composition",
            evidence={"figure": "composition", "place": m.place, "error": m.error},
        )
        for m in first.values()
    ]


def _relative_error(leaf: Leaf, suspects: Sequence[Leaf]) -> float:
    """A module's error over the median of its siblings', or over what its dtype costs."""
    siblings = sorted(
        o.errors.error for o in suspects if o.kind == leaf.kind and o.storage == leaf.storage
    )
    usual = siblings[len(siblings) // 2] if len(siblings) >= FEWEST_SIBLINGS else leaf.cost.error
    return leaf.errors.error / usual if usual else math.inf
