"""How much of the loss goes when the reference's modules stand in place of the candidate's.

The loss is the mean KL divergence of the candidate's next-token distributions from those of the
``source``, in nats, over the texts of the diagnosis, in float64. The source is the reference; for a
candidate whose weights are kept as floats, the reference's weights in the candidate's dtype, so
that what this dtype costs is no part of the loss. A module in place of another one computes on what
that one was given, in its own dtype.

Two controls go with it. Modules swapped for themselves leave every bit as it is; all of them
swapped recover the whole loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from ..errors import InfoptError, NotSupportedError
from ..measure import dtype_named, host_logits
from ..measure.module_calls import called_like, computing_with, first_tensor, moved
from ..measure.paired_modules import ModulePair
from .subjects import OpenEngine, Subjects

__all__ = ["Swap", "Swaps", "mean_divergence"]

_MOST = 0.5  # of the loss


@dataclass(frozen=True)
class Swap:
    """Modules, and the share of the loss that goes with the reference's in their place."""

    names: tuple[str, ...]
    loss: float
    recovered: float


class Swaps:
    """``called`` are the names of the modules that the texts call."""

    def __init__(self, subjects: Subjects, called: Iterable[str], source: OpenEngine) -> None:
        self._subjects = subjects
        self._source = source
        self._called = [name for name in called if name]
        self._known: dict[tuple[str, ...], float] = {}

    @cached_property
    def _expected(self) -> list[torch.Tensor]:
        logits = [host_logits(self._source.full_logits(text)) for text in self._subjects.texts]
        return [torch.log_softmax(rows, dim=-1) for rows in logits]

    @cached_property
    def _unchanged(self) -> list[torch.Tensor]:
        return self._logits()

    @cached_property
    def loss(self) -> float:
        """Of the candidate as it is, in nats."""
        return self._divergence(self._unchanged)

    def of(self, names: Sequence[str]) -> Swap:
        """The swap of these modules."""
        key = tuple(names)
        if key not in self._known:
            self._known[key] = self._divergence(self._with_reference(key))
        loss = self._known[key]
        return Swap(key, loss, 1 - loss / self.loss if self.loss else 0.0)

    @torch.no_grad()
    def loss_of(self, engine: OpenEngine) -> float:
        """Of another engine on the same texts, in nats."""
        texts = self._subjects.texts
        return self._divergence([host_logits(engine.full_logits(text)) for text in texts])

    # Controls

    def swapped_for_themselves(self) -> int:
        """How many logits change when every module computes with its own forward: 0."""
        candidates = {self._pair(name).candidate for name in self.parts}
        with computing_with({module: module.forward for module in candidates}):
            again = self._logits()
        pairs = zip(again, self._unchanged, strict=True)
        return sum(int((one != other).sum()) for one, other in pairs)

    def all_swapped(self) -> Swap:
        """Every part of the model."""
        return self.of(self.parts)

    # Attribution

    @cached_property
    def parts(self) -> list[str]:
        """The model's parts: decoder layers, and what lies beside them, in the order of layers
        first called."""
        layers = set(self._subjects.layer_names)
        around = {
            name for name in self._called if any(layer.startswith(f"{name}.") for layer in layers)
        }
        outer = [name for name in self._called if name not in around]
        return [n for n in outer if not any(_lies_in(n, other) for other in outer)]

    def inside(self, name: str) -> list[str]:
        """The modules next inside one."""
        inner = [other for other in self._called if _lies_in(other, name)]
        return [n for n in inner if not any(_lies_in(n, other) for other in inner)]

    def path(self, *, one_by_one: bool = False) -> list[Swap]:
        """From the part whose swap recovers most to the innermost module that recovers as much, the
        outermost first. Parts are told by halves, or each is tried, which ranks them besides."""
        found = [self._best_part() if one_by_one else self._bisected(self.parts)]
        while not self._subjects.deadline.passed:
            inner = [self.of([name]) for name in self.inside(found[-1].names[0])]
            best = max(inner, key=lambda swap: swap.recovered, default=None)
            if best is None or best.recovered < _MOST * found[-1].recovered:
                break
            found.append(best)
        return found

    def _best_part(self) -> Swap:
        tried = [self.of(self.parts[:1])]
        for name in self.parts[1:]:
            if self._subjects.deadline.passed:
                break
            tried.append(self.of([name]))
        return max(tried, key=lambda swap: swap.recovered)

    def _bisected(self, names: Sequence[str]) -> Swap:
        """The one part that is left when the half that recovers less is put aside each time."""
        while len(names) > 1 and not self._subjects.deadline.passed:
            middle = len(names) // 2
            halves = names[:middle], names[middle:]
            names = max(halves, key=lambda half: self.of(half).recovered)
        return self.of(names)

    def of_layers(self) -> list[Swap]:
        """Each decoder layer swapped alone, as many as there is time for."""
        found = []
        for name in self._subjects.layer_names:
            if self._subjects.deadline.passed and (name,) not in self._known:
                continue
            found.append(self.of([name]))
        return found

    def _pair(self, name: str) -> ModulePair:
        return self._subjects.paired.pairs[name]

    @torch.no_grad()
    def _logits(self) -> list[torch.Tensor]:
        engine = self._subjects.candidate
        return [host_logits(engine.full_logits(text)) for text in self._subjects.texts]

    def _with_reference(self, names: Sequence[str]) -> list[torch.Tensor]:
        by_module: dict[nn.Module, list[ModulePair]] = {}
        for pair in map(self._pair, names):
            by_module.setdefault(pair.candidate, []).append(pair)
        forwards = {module: self._forward(module, pairs) for module, pairs in by_module.items()}
        try:
            with computing_with(forwards):
                return self._logits()
        except InfoptError:
            raise
        except Exception as error:  # layers that hand each other more than hidden states
            raise NotSupportedError(
                f"{names[0]} cannot be swapped: the reference's module refuses what the candidate "
                f"gives it ({type(error).__name__}: {error})"
            ) from error

    def _forward(self, module: nn.Module, pairs: Sequence[ModulePair]) -> Callable[..., Any]:
        """What computes the reference's outputs on the candidate's inputs; of a fused module, those
        columns that are the reference's."""
        subjects, source = self._subjects, self._source
        own, dtype = module.forward, dtype_named(source.cache_dtype)
        replacements = [source.module.get_submodule(pair.name) for pair in pairs]

        def forward(*args: Any, **keywords: Any) -> Any:
            if pairs[0].columns is None:
                made = called_like(replacements[0], args, keywords, dtype)
                return moved(made, subjects.dtype, torch.device(subjects.candidate.device))
            output = own(*args, **keywords).clone()
            for pair, replacement in zip(pairs, replacements, strict=True):
                made = called_like(replacement, args, keywords, dtype)
                output[..., pair.columns] = first_tensor(made).to(output)  # type: ignore[union-attr]
            return output

        return forward

    def _divergence(self, logits: Sequence[torch.Tensor]) -> float:
        found = [mean_divergence(e, o) for e, o in zip(self._expected, logits, strict=True)]
        tokens = [len(rows) for rows in logits]
        return sum(f * n for f, n in zip(found, tokens, strict=True)) / sum(tokens)


def mean_divergence(expected: torch.Tensor, logits: torch.Tensor) -> float:
    """Mean KL divergence of the logits [T, V] from log-probabilities, in nats.

    Zero for equal ones, and never below: rounding of a difference of logarithms may be.
    """
    differences = expected - torch.log_softmax(logits, dim=-1)
    return max(0.0, float((expected.exp() * differences).sum(-1).mean()))


def _lies_in(name: str, other: str) -> bool:
    return name.startswith(f"{other}.")
