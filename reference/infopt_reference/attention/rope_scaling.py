"""Frequencies of rotary embeddings, for more positions than a model was trained on.

    unscaled      f[j] = base^(−2j/R), radians a position, of pair j of R/2
    linear        f[j] / factor
    dynamic       f[j] of a larger base, base · (factor · length/trained − (factor − 1))^(R/(R − 2))
    yarn          f[j] where it turns often within the trained length, f[j] / factor where it hardly
                  turns, and between them a mixture that is linear in j
    llama 3       the same with a mixture that is linear in the number of turns
    proportional  f[j] / factor of the first pairs, 0 of the others
    long rope     f[j] / short[j] up to the trained length, f[j] / long[j] beyond

YaRN and LongRoPE also multiply queries and keys by an *attention factor*, which makes up for the
flatter softmax over more keys.

Contract. Frequencies are float64. Lengths are the caller's to give, once: keys that a cache holds
were turned with the frequencies of their time, and other frequencies later would not match them.
Sources: Chen et al. 2023, "Extending context window via positional interpolation", section 2.3;
bloc97 2023, "NTK-aware scaled RoPE" (the dynamic form as transformers has it); Peng et al. 2023,
"YaRN" (arXiv 2309.00071), section 3 (the ramp over dimensions of its code, not over turns as in its
text); Ding et al. 2024, "LongRoPE" (arXiv 2402.13753), section 3, and Phi-3's attention factor;
Grattafiori et al. 2024, "The Llama 3 herd of models" (bands as in its published code).
Legend: R rotated dimensions of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class RopeScaling(Protocol):
    """What a scaling makes of a base."""

    @property
    def attention_factor(self) -> float:
        """By which queries and keys are multiplied."""

    def frequencies(self, base: float, dim: int) -> Tensor:
        """Radians a position, float64 [dim/2]."""


def unscaled_frequencies(base: float, dim: int) -> Tensor:
    """base^(−2j/dim) for each pair j, float64 [dim/2]."""
    return base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)


@dataclass(frozen=True)
class Unscaled:
    """The frequencies of the paper."""

    attention_factor: ClassVar[float] = 1.0

    def frequencies(self, base: float, dim: int) -> Tensor:
        return unscaled_frequencies(base, dim)


@dataclass(frozen=True)
class LinearScaling:
    """Positions are divided by ``factor``, 1 or more."""

    factor: float
    attention_factor: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _require_factor(self.factor)

    def frequencies(self, base: float, dim: int) -> Tensor:
        return unscaled_frequencies(base, dim) / self.factor


@dataclass(frozen=True)
class DynamicScaling:
    """A larger base for sequences of up to ``length`` tokens, where that is beyond the trained."""

    factor: float
    trained_length: int
    length: int
    attention_factor: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _require_factor(self.factor)

    def frequencies(self, base: float, dim: int) -> Tensor:
        share = max(self.length, self.trained_length) / self.trained_length
        stretch = self.factor * share - (self.factor - 1)
        exponent = dim / (dim - 2) if dim > 2 else 0.0  # one pair has base^0, whatever the base
        return unscaled_frequencies(base * stretch**exponent, dim)


@dataclass(frozen=True)
class YarnScaling:
    """Pairs that turn more than ``beta_fast`` times within the trained length stay, those that
    turn less than ``beta_slow`` times are interpolated.

    ``truncate``: the ends of the ramp are whole pairs. ``own_attention_factor``: None for the
    paper's 0.1 · ln(factor) + 1.
    """

    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    own_attention_factor: float | None = None

    def __post_init__(self) -> None:
        _require_factor(self.factor)

    @property
    def attention_factor(self) -> float:
        if self.own_attention_factor is not None:
            return self.own_attention_factor
        return 0.1 * math.log(self.factor) + 1.0

    def frequencies(self, base: float, dim: int) -> Tensor:
        first = self._pair_that_turns(self.beta_fast, base, dim)
        last = self._pair_that_turns(self.beta_slow, base, dim)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, dim - 1)
        width = last - first or 0.001  # as published: a ramp of no width is a step
        pairs = torch.arange(dim // 2, dtype=torch.float64)
        interpolated = ((pairs - first) / width).clamp(0, 1)
        whole = unscaled_frequencies(base, dim)
        return whole / self.factor * interpolated + whole * (1 - interpolated)

    def _pair_that_turns(self, turns: float, base: float, dim: int) -> float:
        """The pair that turns so many times in the trained length, a fraction of one included."""
        return dim * math.log(self.trained_length / (turns * 2 * math.pi)) / (2 * math.log(base))


@dataclass(frozen=True)
class Llama3Scaling:
    """Pairs that turn more than ``high`` times within the trained length stay, those that turn
    less than ``low`` times are interpolated."""

    factor: float
    trained_length: int
    low: float = 1.0
    high: float = 4.0
    attention_factor: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _require_factor(self.factor)
        if not self.low < self.high:
            raise ValueError(f"low is {self.low} and high {self.high}; give a low below the high")

    def frequencies(self, base: float, dim: int) -> Tensor:
        whole = unscaled_frequencies(base, dim)
        turns = self.trained_length * whole / (2 * math.pi)
        kept = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return whole / self.factor * (1 - kept) + whole * kept


@dataclass(frozen=True)
class LongRopeScaling:
    """Each pair has a factor of its own: one up to the trained length, another one beyond.

    ``length`` is the most tokens that the sequence will have, ``factor`` by how much the model's
    context was extended.
    """

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    factor: float
    trained_length: int
    length: int

    def __post_init__(self) -> None:
        _require_factor(self.factor)

    @property
    def attention_factor(self) -> float:
        return math.sqrt(1 + math.log(self.factor) / math.log(self.trained_length))

    def frequencies(self, base: float, dim: int) -> Tensor:
        long = self.length > self.trained_length
        factors = self.long_factors if long else self.short_factors
        if len(factors) != dim // 2:
            raise ValueError(f"{len(factors)} factors for {dim // 2} pairs; give one for each")
        return unscaled_frequencies(base, dim) / torch.tensor(factors, dtype=torch.float64)


@dataclass(frozen=True)
class ProportionalScaling:
    """The first ``share`` of all pairs turn, as if all did; ``factor`` divides positions."""

    share: float
    factor: float = 1.0
    attention_factor: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        _require_factor(self.factor)
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; give a part of all pairs, 0 to 1")

    def frequencies(self, base: float, dim: int) -> Tensor:
        frequencies = unscaled_frequencies(base, dim) / self.factor
        frequencies[int(self.share * dim / 2) :] = 0.0
        return frequencies


def _require_factor(factor: float) -> None:
    if not factor >= 1:
        raise ValueError(f"factor is {factor}; give 1 (no scaling) or more")
