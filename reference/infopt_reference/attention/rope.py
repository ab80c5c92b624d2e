"""Rotary position embedding: queries and keys are turned by an angle that grows with the position.

    pair j of a head, (x[j], x[j + D/2]), at position p is turned by  p / factor · base^(−2j/D)

so that the product of a query at p and a key at k depends on p − k alone.

Contract. Angles are computed in float64 and their cosines rounded to float32 (float64 for float64
tensors); norms are preserved. Positions come from the caller, who takes them from the attention
mask (`masks.token_positions`): under left padding a row's first token stands at 0, not in slot 0.

Longer contexts: `factor` interpolates positions (linear scaling). NTK-aware scaling enlarges the
base with the length (`Rope.ntk`). Keys that a cache holds were turned with the base of their time;
should the base grow after that, old and new keys no longer match. So a `Rope` has one base for
good: choose it for the longest length that the sequence will reach, before its first token.

Leaves out: YaRN, LongRoPE and Llama 3's frequency bands; heads that are turned in part.
Sources: Su et al. 2021, "RoFormer", section 3.2.2 (in the half-split layout of Llama); Chen et al.
2023, "Extending context window via positional interpolation", section 2.3; bloc97 2023, "NTK-aware
scaled RoPE" (the dynamic form as transformers has it).
Legend: B batch, T query length, H heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of heads of dimension ``head_dim``.

    Args:
        head_dim: even.
        base: wavelength of the slowest pair, about; 10000 in the paper.
        factor: positions are divided by it, 1 or more.

    Raises:
        ValueError: an argument is out of its range.
    """

    head_dim: int
    base: float = 10_000.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; pairs need an even number, 2 or more")
        if not self.base > 0:
            raise ValueError(f"base is {self.base}; give a positive number")
        if not self.factor >= 1:
            raise ValueError(f"factor is {self.factor}; give 1 (no scaling) or more")

    @classmethod
    def ntk(
        cls,
        head_dim: int,
        base: float = 10_000.0,
        *,
        factor: float = 1.0,
        trained_length: int,
        length: int,
    ) -> Self:
        """NTK-aware scaling for sequences of up to ``length`` tokens.

        Up to the length that the model was trained for nothing changes; beyond, the base is
        multiplied by (factor · length / trained_length − (factor − 1))^(D/(D − 2)).
        """
        stretch = factor * max(length, trained_length) / trained_length - (factor - 1)
        exponent = head_dim / (head_dim - 2) if head_dim > 2 else 0.0  # one pair: base^0, no base
        return cls(head_dim, base * stretch**exponent)

    def angles(self, positions: Tensor) -> Tensor:
        """Angles in radians of positions [B, T], float64 [B, T, D/2]."""
        steps = torch.arange(0, self.head_dim, 2, dtype=torch.float64, device=positions.device)
        frequencies = self.base ** (-steps / self.head_dim)  # [D/2], float64 like the steps
        return positions.double()[..., None] / self.factor * frequencies

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Heads [B, H, T, D] turned for their positions [B, T] ([1, T]: the same in every row).

        Raises:
            ValueError: the heads have another dimension than `head_dim`.
        """
        if heads.shape[-1] != self.head_dim:
            raise ValueError(f"heads have dimension {heads.shape[-1]}, the rope {self.head_dim}")
        dtype = torch.promote_types(heads.dtype, torch.float32)
        angles = self.angles(positions)[:, None]  # [B, 1, T, D/2]
        cosine, sine = angles.cos().to(dtype), angles.sin().to(dtype)
        first, second = heads.to(dtype).chunk(2, dim=-1)  # [B, H, T, D/2] each
        turned = (first * cosine - second * sine, second * cosine + first * sine)
        return torch.cat(turned, dim=-1).to(heads.dtype)
