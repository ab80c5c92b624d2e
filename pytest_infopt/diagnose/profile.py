"""Errors of every module's outputs as they add up through the model, on the same texts.

Beside each stands what the number format costs: the same of the reference's weights in the
candidate's dtype (`ModelPair.plain`); where that is the reference, of the reference with every
output moved by one rounding unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..measure.module_calls import first_tensor, rounded_once_more, watched
from .output_error import OutputError, rows_of
from .subjects import OpenEngine, Subjects

__all__ = ["ErrorProfile", "ModuleErrors"]


@dataclass
class ModuleErrors:
    """One module's outputs against the reference's, and what the format costs there."""

    name: str
    candidate: OutputError = field(default_factory=OutputError)
    floor: OutputError = field(default_factory=OutputError)


class ErrorProfile:
    """``errors`` by name, in the order in which the reference's modules first end a call."""

    def __init__(self, subjects: Subjects) -> None:
        self.errors: dict[str, ModuleErrors] = {}
        self._subjects = subjects
        for index, text in enumerate(subjects.texts):
            if index and subjects.deadline.passed:
                break
            self._add(text)

    @torch.no_grad()
    def _add(self, text: Sequence[int]) -> None:
        subjects, pairs = self._subjects, self._subjects.paired.pairs
        expected: dict[str, list[torch.Tensor]] = {}

        def keep(name: str, args: Any, keywords: Any, output: Any) -> None:
            if (tensor := first_tensor(output)) is not None:
                self.errors.setdefault(name, ModuleErrors(name))
                expected.setdefault(name, []).append(rows_of(tensor).clone())

        reference = {name: pair.reference for name, pair in pairs.items()}
        with watched(reference, keep):
            subjects.reference.full_logits(text)
        candidate = {name: pair.candidate for name, pair in pairs.items()}
        self._compare(subjects.candidate, candidate, text, expected, lambda e: e.candidate)
        if subjects.plain is subjects.reference:
            with rounded_once_more(subjects.reference.module):
                self._compare(subjects.reference, reference, text, expected, lambda e: e.floor)
        else:
            plain = {name: subjects.plain.module.get_submodule(name) for name in pairs}
            self._compare(subjects.plain, plain, text, expected, lambda e: e.floor)

    def _compare(
        self,
        engine: OpenEngine,
        modules: Mapping[str, nn.Module],
        text: Sequence[int],
        expected: Mapping[str, list[torch.Tensor]],
        choose: Callable[[ModuleErrors], OutputError],
    ) -> None:
        waiting = {name: iter(outputs) for name, outputs in expected.items()}

        def compare(name: str, args: Any, keywords: Any, output: Any) -> None:
            exact, tensor = next(waiting.get(name, iter(())), None), first_tensor(output)
            if exact is None or tensor is None:
                return
            if engine is self._subjects.candidate:
                tensor = self._subjects.paired.pairs[name].part(tensor)
            rows = rows_of(tensor)
            if exact.shape == rows.shape:
                choose(self.errors[name]).add(rows.to(exact.device), exact)

        with watched(modules, compare):
            engine.full_logits(text)
