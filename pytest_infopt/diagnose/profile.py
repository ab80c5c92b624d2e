"""Errors of every module: as they add up through the model, and of each module by itself.

    end to end    outputs of both models on the same text: what came before is in them
    by itself     the candidate's module on what the reference's was given: its own error alone

Beside both stands what the number format costs: the same of the reference's weights in the
candidate's dtype (`ModelPair.plain`); where that is the reference, of the reference with every
output moved by one rounding unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..measure.module_calls import called_like, first_tensor, nudged
from ..measure.paired_modules import ModulePair
from .output_error import OutputError, rows_of
from .subjects import OpenEngine, Subjects

__all__ = ["ErrorProfile", "ModuleErrors", "is_matrix", "watched"]

_MATRIX = 2
_NOISE_ROWS = 64

Seen = Callable[[str, tuple[Any, ...], dict[str, Any], torch.Tensor], None]


@dataclass
class ModuleErrors:
    """One module: its errors end to end and by itself, each with what the format costs.

    ``on_noise`` is a matrix's error on inputs of normal noise: that of its weights, whichever of
    them the text's large activations bring out.
    """

    pair: ModulePair
    end_to_end: OutputError = field(default_factory=OutputError)
    floor: OutputError = field(default_factory=OutputError)
    alone: OutputError = field(default_factory=OutputError)
    own_floor: OutputError = field(default_factory=OutputError)
    on_noise: OutputError = field(default_factory=OutputError)
    refused: str = ""  # why the candidate's module could not be called by itself

    @property
    def name(self) -> str:
        return self.pair.name


class ErrorProfile:
    """``errors`` by name, in the order in which the reference's modules first end a call."""

    def __init__(self, subjects: Subjects) -> None:
        self.errors: dict[str, ModuleErrors] = {}
        self._subjects = subjects
        self._inside = False  # a module is being called by itself
        for index, text in enumerate(subjects.texts):
            if index and subjects.deadline.passed:
                break
            self._add(text)

    @torch.no_grad()
    def _add(self, text: Sequence[int]) -> None:
        subjects, pairs = self._subjects, self._subjects.paired.pairs
        expected: dict[str, list[torch.Tensor]] = {}

        def keep(name: str, args: Any, keywords: Any, output: torch.Tensor) -> None:
            if not self._inside:
                expected.setdefault(name, []).append(rows_of(output).clone())
                self._call_alone(name, args, keywords, output)

        reference = {name: pair.reference for name, pair in pairs.items()}
        with watched(reference, keep):
            subjects.reference.full_logits(text)
        candidate = {name: pair.candidate for name, pair in pairs.items()}
        self._compare(subjects.candidate, candidate, text, expected, _end_to_end)
        if subjects.plain is subjects.reference:
            with _rounded_once_more(subjects.reference.module):
                self._compare(subjects.reference, reference, text, expected, _floor)
        else:
            plain = {name: subjects.plain_module(pair) for name, pair in pairs.items()}
            self._compare(subjects.plain, plain, text, expected, _floor)

    def _compare(
        self,
        engine: OpenEngine,
        modules: Mapping[str, nn.Module],
        text: Sequence[int],
        expected: Mapping[str, list[torch.Tensor]],
        choose: Callable[[ModuleErrors], OutputError],
    ) -> None:
        waiting = {name: iter(outputs) for name, outputs in expected.items()}

        def compare(name: str, args: Any, keywords: Any, output: torch.Tensor) -> None:
            exact = next(waiting.get(name, iter(())), None)
            if engine is self._subjects.candidate:
                output = self._subjects.paired.pairs[name].part(output)
            rows = rows_of(output)
            if exact is not None and exact.shape == rows.shape:
                choose(self.errors[name]).add(rows.to(exact.device), exact)

        with watched(modules, compare):
            engine.full_logits(text)

    def _call_alone(self, name: str, args: Any, keywords: Any, output: torch.Tensor) -> None:
        """The candidate's module, and the plain one, on what the reference's was given."""
        subjects, pair = self._subjects, self._subjects.paired.pairs[name]
        found = self.errors.setdefault(name, ModuleErrors(pair))
        self._inside = True
        try:
            made = first_tensor(called_like(pair.candidate, args, keywords, subjects.dtype))
            if subjects.plain is subjects.reference:
                plain = pair.reference(*nudged(args), **nudged(keywords))
            else:
                plain = called_like(subjects.plain_module(pair), args, keywords, subjects.dtype)
            cost = first_tensor(plain)
        except Exception as error:  # another arrangement of arguments: nothing to compare
            found.refused = f"{type(error).__name__}: {error}"
            return
        finally:
            self._inside = False
        if is_matrix(pair) and not found.on_noise.seen:
            self._call_on_noise(found, args)
        for tensor, errors in ((made, found.alone), (cost, found.own_floor)):
            if tensor is None:
                continue
            part = pair.part(tensor) if errors is found.alone else tensor
            if part.shape == output.shape:
                errors.add(rows_of(part).to(output.device), rows_of(output))
            else:
                found.refused = f"its outputs are {tuple(part.shape)}, not {tuple(output.shape)}"

    def _call_on_noise(self, found: ModuleErrors, args: Any) -> None:
        pair, given = found.pair, first_tensor(args)
        if given is None:
            return
        generator = torch.Generator().manual_seed(0)
        shape = (_NOISE_ROWS, given.shape[-1])
        noise = torch.randn(shape, generator=generator).to(given)
        self._inside = True
        try:
            exact = first_tensor(called_like(pair.reference, (noise,), {}, given.dtype))
            made = first_tensor(called_like(pair.candidate, (noise,), {}, self._subjects.dtype))
        except Exception:  # it takes more than its input: then the text has to do
            return
        finally:
            self._inside = False
        if exact is not None and made is not None and pair.part(made).shape == exact.shape:
            found.on_noise.add(rows_of(pair.part(made)).to(exact.device), rows_of(exact))


def is_matrix(pair: ModulePair) -> bool:
    """Whether it multiplies its input by a matrix; the rows of an embedding are looked up."""
    own = pair.reference.parameters(recurse=False)
    return not isinstance(pair.reference, nn.Embedding) and any(p.ndim == _MATRIX for p in own)


def _end_to_end(found: ModuleErrors) -> OutputError:
    return found.end_to_end


def _floor(found: ModuleErrors) -> OutputError:
    return found.floor


@contextmanager
def watched(modules: Mapping[str, nn.Module], seen: Seen) -> Iterator[None]:
    """``seen`` is told of every call of the modules, by name, that gives a tensor of floats."""

    def hook(name: str) -> Any:
        def tell(_: Any, args: Any, keywords: Any, output: Any) -> None:
            if (tensor := first_tensor(output)) is not None:
                seen(name, args, keywords, tensor)

        return tell

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _rounded_once_more(model: nn.Module) -> Iterator[None]:
    """Every output of a module without modules inside is off by one rounding unit."""
    handles = [
        module.register_forward_hook(lambda _, args, output: nudged(output))
        for module in model.modules()
        if next(module.children(), None) is None
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
