"""Weights to prune: what Hypothesis draws, and traps; scores that a float64 oracle ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from .protocol import MakePruner, Pruner


@dataclass(frozen=True)
class PruningCase:
    """A weight and what is to be removed of it."""

    weight: Tensor
    sparsity: float | None = None
    pattern: tuple[int, int] | None = None
    inputs: Tensor | None = None

    def __repr__(self) -> str:
        wanted = f"sparsity {self.sparsity}"
        if self.pattern is not None:
            wanted = "{}:{}".format(*self.pattern)
        inputs = "" if self.inputs is None else f", inputs {self.inputs.tolist()}"
        return f"{wanted} of {self.weight.dtype} {self.weight.tolist()}{inputs}"

    def mask_by(self, pruner: Pruner) -> Tensor:
        """The pruner's mask. Raises TypeError where it gives something else."""
        mask = pruner.mask(
            self.weight, sparsity=self.sparsity, pattern=self.pattern, inputs=self.inputs
        )
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask gave {type(mask).__name__} for a tensor")
        return mask

    @property
    def scores(self) -> Tensor:
        """Float64 |w|, or |w| · ‖x‖ where there are inputs, in the weight's shape."""
        scores = self.weight.double().abs()
        if self.inputs is None:
            return scores
        tokens = self.inputs.double().reshape(-1, self.weight.shape[-1])
        return scores * tokens.square().sum(dim=0).sqrt()


@dataclass(frozen=True)
class Trial:
    """A case, and how pruners are made."""

    make: MakePruner
    case: PruningCase

    def mask(self, **changes: Any) -> Tensor:
        """A new pruner's mask, of the case with these changes."""
        return replace(self.case, **changes).mask_by(self.make())


@dataclass(frozen=True)
class Accepted:
    """What an implementation takes: ways of asking, patterns, whether inputs decide."""

    ways: Sequence[str]
    patterns: Sequence[tuple[int, int]]
    activations: bool

    def given(self, inputs: Tensor) -> Tensor | None:
        """The inputs, where they are asked for."""
        return inputs if self.activations else None


_FEW = st.integers(-2, 2).map(float)  # many ties
_MANY = st.integers(-(2**10), 2**10).map(float)
_SHARES = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 0.25, 0.75, 0.1, 0.9, 1 / 3]), st.floats(0, 1, width=32)
)


def pruning_cases(
    accepted: Accepted, dtypes: Sequence[torch.dtype], way: str
) -> SearchStrategy[PruningCase]:
    """Small weights, with many equal ones or with few, and what is to be removed of them."""

    @st.composite
    def draw_case(draw: st.DrawFn) -> PruningCase:
        pattern = draw(st.sampled_from(accepted.patterns)) if way == "patterns" else None
        block = 1 if pattern is None else pattern[1]
        rows, columns = draw(st.integers(1, 4)), block * draw(st.integers(1, 8 // block + 1))
        numbers = draw(st.sampled_from([_FEW, _MANY]))
        values = draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
        weight = torch.tensor(values).view(rows, columns).to(draw(st.sampled_from(dtypes)))
        sparsity = None if pattern else draw(_SHARES)
        inputs = _exact_inputs(draw(st.integers(0, 99)), columns)
        return PruningCase(weight, sparsity, pattern, accepted.given(inputs))

    return draw_case()


def pruning_traps(accepted: Accepted, way: str) -> Iterator[tuple[str, PruningCase]]:
    """Named weights on which counts and rankings have gone wrong."""
    normal = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    weights = {
        "all equal": torch.full((8, 8), 0.5),
        "all zero": torch.zeros(8, 8),
        "equal but for the sign": torch.ones(8, 8) - 2.0 * torch.eye(8),
        "one row a thousand times larger": torch.cat([normal[:1] * 1000, normal[1:]]),
        "one column a thousand times larger": torch.cat([normal[:, :1] * 1000, normal[:, 1:]], 1),
        "mostly zeros": normal * (normal > 1),
    }
    inputs = accepted.given(_exact_inputs(1, 8))
    for name, weight in weights.items():
        for share in (0.0, 0.5, 0.9, 1.0) if way == "sparsity" else ():
            yield name, PruningCase(weight, sparsity=share, inputs=inputs)
        for pattern in accepted.patterns if way == "patterns" else ():
            if 8 % pattern[1] == 0:
                yield name, PruningCase(weight, pattern=pattern, inputs=inputs)

    if way == "sparsity":
        ten = torch.arange(100.0).view(10, 10)
        case = PruningCase(ten, sparsity=0.9, inputs=accepted.given(_exact_inputs(1, 10)))
        yield "a share that is no binary fraction, of a count that it divides", case


def activation_cases(accepted: Accepted) -> Iterator[PruningCase]:
    """Normal weights and inputs of 3 sequences, features between 1/8 and 8 in size."""
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(6, 16, generator=generator)
        inputs = torch.randn(3, 5, 16, generator=generator)
        inputs *= 2.0 ** torch.linspace(-3, 3, 16)[torch.randperm(16, generator=generator)]
        # Of two features with one norm, the second is spread over tokens, the first is not.
        inputs[..., 0], inputs[0, 0, 0] = 0, 8
        if "sparsity" in accepted.ways:
            yield PruningCase(weight, sparsity=0.5, inputs=inputs)
            yield PruningCase(weight, sparsity=0.75, inputs=inputs)
        if "patterns" in accepted.ways:
            for pattern in accepted.patterns:
                if 16 % pattern[1] == 0 and 2 * pattern[0] <= pattern[1]:
                    yield PruningCase(weight, pattern=pattern, inputs=inputs)


def _exact_inputs(seed: int, columns: int) -> Tensor:
    """Inputs [4, columns], ±2^e in column e or 0 throughout: their norms are powers of two."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-3, 4, (columns,), generator=generator)
    signs = torch.randint(0, 2, (4, columns), generator=generator) * 2.0 - 1
    alive = torch.rand(columns, generator=generator) > 0.2
    return signs * 2.0**exponents * alive


def distinct(weight: Tensor) -> Tensor:
    """The weight's signs with magnitudes 1, 1 + 1/n, … in some order: no two scores are equal.

    All lie within one power of two, so that products with norms that are powers of two differ too.
    """
    count = weight.numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(count))
    magnitudes = 1 + order.view(weight.shape) / count
    return (torch.where(weight < 0, -magnitudes, magnitudes)).to(weight.dtype)


def highest(rows: Tensor, case: PruningCase) -> Tensor:
    """Bool: of each row [R, n] of scores, which all differ, the highest, by sorting them."""
    count = rows.shape[1]
    kept = case.pattern[0] if case.pattern else count - round((case.sparsity or 0) * count)
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    for row, scores in enumerate(rows.tolist()):
        best = sorted(range(count), key=scores.__getitem__, reverse=True)
        mask[row, best[:kept]] = True
    return mask
