"""Which module of a candidate does the work of which module of its reference.

Both trees are walked together from the top. A child is paired by name; where names differ, by what
it is:

    wrapped   the candidate's module holds nothing but one inner module, in which the children lie
    fused     one linear layer computes what several of the reference do, one behind the other
              (qkv, gate_up): each is paired with its part of the outputs
    renamed   the only children left on both sides whose parameters have the same shapes, in order

What is left has no partner, and its name says which module was not compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["ModulePair", "PairedModules", "kind_of", "pair_modules"]


@dataclass(frozen=True, eq=False)
class ModulePair:
    """A reference's module and the candidate's partner; ``columns`` of its outputs, where it is
    fused."""

    name: str  # in the reference
    reference: nn.Module
    candidate: nn.Module
    candidate_name: str
    columns: slice | None = None

    @property
    def kind(self) -> str:
        """The name without its numbers: modules of one kind are siblings."""
        return kind_of(self.name)

    @property
    def is_leaf(self) -> bool:
        """Whether the reference's module has no module inside, or is a stack of experts, whose
        matrices are its own."""
        if next(self.reference.children(), None) is None:
            return True
        own = self.reference.parameters(recurse=False)
        return any(parameter.ndim >= 3 for parameter in own)

    def part(self, output: torch.Tensor) -> torch.Tensor:
        """What of the candidate's output is the reference's."""
        return output if self.columns is None else output[..., self.columns]


@dataclass(frozen=True)
class PairedModules:
    """Pairs by the reference's names, and the reference's modules without a partner."""

    pairs: Mapping[str, ModulePair]
    unpaired: Mapping[str, nn.Module]

    def under(self, name: str) -> Iterator[ModulePair]:
        """The pairs inside a module, not the module itself."""
        return (pair for key, pair in self.pairs.items() if key.startswith(f"{name}.") or not name)

    @property
    def compared_share(self) -> float:
        """Share of the reference's parameters whose modules have a partner."""
        lost = _parameters(self.unpaired.values())
        found = _parameters(pair.reference for pair in self.pairs.values() if pair.is_leaf)
        whole = sum({id(p): p.numel() for p in [*lost, *found]}.values())
        missing = sum(
            {id(p): p.numel() for p in lost if id(p) not in {id(f) for f in found}}.values()
        )
        return 1 - missing / whole if whole else 0.0


def kind_of(name: str) -> str:
    """A module's name with a star for each number."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def pair_modules(reference: nn.Module, candidate: nn.Module) -> PairedModules:
    """Pairs the modules of two models, the models themselves under the name ""."""
    pairs: dict[str, ModulePair] = {}
    unpaired: dict[str, nn.Module] = {}
    _walk(ModulePair("", reference, candidate, ""), pairs, unpaired)
    return PairedModules(pairs, unpaired)


def _parameters(modules: Any) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


def _walk(pair: ModulePair, pairs: dict[str, ModulePair], unpaired: dict[str, nn.Module]) -> None:
    pairs[pair.name] = pair
    ours = dict(pair.reference.named_children())
    path, theirs = _children(pair, set(ours))
    for name in list(ours.keys() & theirs.keys()):
        module, partner = ours.pop(name), theirs.pop(name)
        # OpenAI GPT's activation is one module of all models: it differs in nothing, and whoever
        # watches the candidate's would see the reference's calls as well.
        if module is not partner or pair.reference is pair.candidate:
            _walk(_child(pair, name, module, path, name, partner), pairs, unpaired)
    for name, other, columns in [*_fused(ours, theirs), *_renamed(ours, theirs)]:
        inner = _child(pair, name, ours.pop(name), path, other, theirs[other], columns)
        if columns is None:
            _walk(inner, pairs, unpaired)
        else:
            pairs[inner.name] = inner
    unpaired |= {_joined(pair.name, name): module for name, module in ours.items()}


def _children(pair: ModulePair, wanted: set[str]) -> tuple[str, dict[str, nn.Module]]:
    """The candidate's children and the path to their owner, inside as many wrappers as it takes."""
    path, module = pair.candidate_name, pair.candidate
    children = dict(module.named_children())
    while wanted and len(children) == 1 and not wanted & children.keys():
        name, module = next(iter(children.items()))
        inner = dict(module.named_children())
        if not wanted & inner.keys() and len(inner) != 1:
            break
        path, children = _joined(path, name), inner
    return path, children


def _child(
    pair: ModulePair,
    name: str,
    module: nn.Module,
    path: str,
    partner: str,
    candidate: nn.Module,
    columns: slice | None = None,
) -> ModulePair:
    return ModulePair(_joined(pair.name, name), module, candidate, _joined(path, partner), columns)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fused(
    ours: Mapping[str, nn.Module], theirs: Mapping[str, nn.Module]
) -> list[tuple[str, str, slice | None]]:
    """Runs of linear layers whose outputs one of the candidate's has, one behind the other."""
    widths = {name: width for name, module in ours.items() if (width := _width(module))}
    found: list[tuple[str, str, slice | None]] = []
    for partner, module in theirs.items():
        target = _width(module)
        if target is None:
            continue
        names = [
            name
            for name in widths
            if widths[name][0] == target[0] and name not in {f[0] for f in found}
        ]
        for start in range(len(names)):
            for stop in range(start + 2, len(names) + 1):
                run = names[start:stop]
                if sum(widths[name][1] for name in run) == target[1] and len(run) in (2, 3):
                    edge = 0
                    for name in run:
                        found.append((name, partner, slice(edge, edge + widths[name][1])))
                        edge += widths[name][1]
                    break
            else:
                continue
            break
    return found


def _width(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, whatever it is made of."""
    features = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if all(isinstance(count, int) for count in features):
        return features  # type: ignore[return-value]  # both are int, as just seen
    return None


def _renamed(
    ours: Mapping[str, nn.Module], theirs: Mapping[str, nn.Module]
) -> list[tuple[str, str, slice | None]]:
    """Children that are left on both sides as often, by the shapes of their parameters."""
    fused = {name for name, _, _ in _fused(ours, theirs)}
    left: dict[Any, list[str]] = {}
    for name, module in ours.items():
        if name not in fused:
            left.setdefault(_shape(module), []).append(name)
    partners: dict[Any, list[str]] = {}
    for name, module in theirs.items():
        partners.setdefault(_shape(module), []).append(name)
    return [
        (name, partner, None)
        for shape, names in left.items()
        if len(names) == len(partners.get(shape, ()))
        for name, partner in zip(names, partners[shape], strict=True)
    ]


def _shape(module: nn.Module) -> Any:
    if (width := _width(module)) is not None and next(module.children(), None) is None:
        return width
    return tuple(tuple(parameter.shape) for parameter in module.parameters())
