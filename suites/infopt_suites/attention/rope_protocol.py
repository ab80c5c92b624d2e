"""What the suite for rotary embeddings talks to: minimal protocols for a thin adapter.

Legend: B batch, T tokens, H query heads, G kv heads, D head dim, R rotated dimensions, A axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

Pairing = Literal["halves", "neighbours"]


@dataclass(frozen=True)
class Linear:
    """Positions are divided by ``factor`` (Chen et al. 2023, section 2.3)."""

    factor: float


@dataclass(frozen=True)
class Dynamic:
    """Beyond ``trained_length`` tokens the base is multiplied by
    (factor · length/trained_length − (factor − 1))^(R/(R − 2)), as in transformers."""

    factor: float
    trained_length: int


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071): pairs from the one that turns ``beta_fast`` times in the trained
    length to the one that turns ``beta_slow`` times go over from f to f / factor, linearly in the
    pair's number as in the paper's code; both ends are rounded outwards to whole pairs with
    ``truncate``. All numbers are multiplied by ``attention_factor``, or 0.1 · ln(factor) + 1."""

    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None


@dataclass(frozen=True)
class Llama3:
    """Pairs that turn ``high`` times in the trained length keep f, those that turn ``low`` times
    get f / factor; between them linearly in the number of turns."""

    factor: float
    trained_length: int
    low: float = 1.0
    high: float = 4.0


@dataclass(frozen=True)
class LongRope:
    """LongRoPE (arXiv 2402.13753): pair j has f[j] / short[j] up to the trained length, and
    f[j] / long[j] beyond. All numbers are multiplied by √(1 + ln(factor) / ln(trained_length)),
    as in Phi-3."""

    short: tuple[float, ...]
    long: tuple[float, ...]
    factor: float
    trained_length: int


@dataclass(frozen=True)
class Proportional:
    """The first ``share`` of all pairs get f[j] / factor, the others do not turn (as Gemma 4)."""

    share: float
    factor: float = 1.0


Scaling = Linear | Dynamic | Yarn | Llama3 | LongRope | Proportional


@dataclass(frozen=True)
class RopeSpec:
    """A rotary embedding: pair j of the first R dimensions turns by position · f[j] radians,
    f[j] = base^(−2j/R) unless it is scaled.

    ``pairing``: pair j is the dimensions j and j + R/2 ("halves") or 2j and 2j + 1 ("neighbours").
    ``rotary_dim``: R. ``length``: all positions are below; a scaling that depends on a length takes
    this one where the suite's ``length_rule`` is "spec". ``sections``: positions have an axis for
    each; so many pairs turn by the first, the next ones by the second. With ``interleaved``, pair
    3i + a turns by axis a for the first ``sections[a]`` values of i, and by axis 0 else.
    """

    head_dim: int
    rotary_dim: int
    length: int
    base: float = 10_000.0
    pairing: Pairing = "halves"
    scaling: Scaling | None = None
    sections: tuple[int, int, int] | None = None
    interleaved: bool = False
    device: str = "cpu"


class Rope(Protocol):
    """Rotary embedding of one spec."""

    def rotate(self, queries: Tensor, keys: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, H, T, D] and keys [B, G, T, D] turned, for positions [B, T], integers.

        With sections, positions are [3, B, T].
        """


class ShiftingRope(Rope, Protocol):
    """Capability "shift"."""

    def shift(self, keys: Tensor, distance: Tensor) -> Tensor:
        """Turned keys [B, G, T, D] as if their positions had been ``distance`` [B, T] larger.

        Distances are negative where tokens before the keys were dropped.
        """


class MakeRope(Protocol):
    """The factory that `RopeSuite` asks for."""

    def __call__(self, spec: RopeSpec) -> Rope:
        """A rotary embedding that has rotated nothing yet."""
