"""Rotary position embedding: queries and keys are turned by an angle that grows with the position.

    pair j of a head, at position p, is turned by p · frequency[j]

so that the product of a query at p and a key at k depends on p − k alone.

Contract. Angles are computed in float64 and their cosines rounded to float32 (float64 for float64
tensors); norms are preserved, but for a scaling's attention factor. Positions come from the caller,
who takes them from the attention mask (`masks.token_positions`): under left padding a row's first
token stands at 0, not in slot 0. A `Rope` has one set of frequencies for good (`rope_scaling`).

Pairs are *halves*, dimensions j and j + R/2 (Llama), or *neighbours*, 2j and 2j + 1 (the paper,
GPT-J). Only the first R dimensions are turned where that is less than the head. With `Sections`,
pairs turn by different positions: by time, height and width (M-RoPE).

Leaves out: two-dimensional embeddings of vision towers.
Sources: Su et al. 2021, "RoFormer" (arXiv 2104.09864), section 3.2.2; Black et al. 2022,
"GPT-NeoX-20B" (turned in part); Wang et al. 2024, "Qwen2-VL", section 2.1 (M-RoPE).
Legend: B batch, T query length, H heads, D head dim, R rotated dimensions, A axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .rope_scaling import RopeScaling, Unscaled

Pairing = Literal["halves", "neighbours"]


@dataclass(frozen=True)
class Sections:
    """How many pairs turn by each axis of the positions: one axis after the other, or in turns.

    In turns (``interleaved``, as Qwen3-VL), pair 3i + a turns by axis a for the first ``sizes[a]``
    values of i; all others turn by axis 0.
    """

    sizes: tuple[int, ...]
    interleaved: bool = False

    def axes(self) -> list[int]:
        """The axis of each pair."""
        count = len(self.sizes)
        if not self.interleaved:
            return [axis for axis, size in enumerate(self.sizes) for _ in range(size)]
        pairs = range(sum(self.sizes))
        return [pair % count if pair // count < self.sizes[pair % count] else 0 for pair in pairs]


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of heads of dimension ``head_dim``.

    Args:
        head_dim: of the heads.
        base: wavelength of the slowest pair, about; 10000 in the paper.
        scaling: of the frequencies, for more positions than a model was trained on.
        pairing: which dimensions are a pair.
        rotary_dim: turn the first so many dimensions alone, an even number; None for all.
        sections: positions have several axes; None for one.

    Raises:
        ValueError: an argument is out of its range.
    """

    head_dim: int
    base: float = 10_000.0
    scaling: RopeScaling = Unscaled()  # noqa: RUF009  # frozen
    pairing: Pairing = "halves"
    rotary_dim: int | None = None
    sections: Sections | None = None

    def __post_init__(self) -> None:
        turned = self.turned_dim
        if turned < 2 or turned % 2 or turned > self.head_dim:
            name = "head_dim" if self.rotary_dim is None else "rotary_dim"
            raise ValueError(
                f"{name} is {turned}; pairs need an even number, 2 or more, of the {self.head_dim} "
                f"dimensions of a head"
            )
        if not self.base > 0:
            raise ValueError(f"base is {self.base}; give a positive number")
        if self.sections is not None and sum(self.sections.sizes) != turned // 2:
            raise ValueError(f"sections {self.sections.sizes} are not the {turned // 2} pairs")

    @property
    def turned_dim(self) -> int:
        """Dimensions R of a head that are turned."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    def angles(self, positions: Tensor) -> Tensor:
        """Angles in radians, float64 [B, T, R/2], of positions [B, T], or [A, B, T]."""
        frequencies = self.scaling.frequencies(self.base, self.turned_dim).to(positions.device)
        positions = positions.double()
        if self.sections is None:
            return positions[..., None] * frequencies
        return positions[self.sections.axes()].movedim(0, -1) * frequencies

    def rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Heads [B, H, T, D] turned for their positions [B, T] ([1, T]: the same in every row).

        With sections, positions are [A, B, T].

        Raises:
            ValueError: the heads have another dimension than `head_dim`.
        """
        return self._turned(heads, positions, self.scaling.attention_factor)

    def shift(self, heads: Tensor, distance: Tensor) -> Tensor:
        """Heads that were turned for some positions, as if those had been ``distance`` larger.

        ``distance`` as positions, negative for positions closer to the start: keys that move up
        where tokens before them were dropped from a cache (context shift).
        """
        return self._turned(heads, distance, 1.0)

    def _turned(self, heads: Tensor, positions: Tensor, factor: float) -> Tensor:
        if heads.shape[-1] != self.head_dim:
            raise ValueError(f"heads have dimension {heads.shape[-1]}, the rope {self.head_dim}")
        dtype = torch.promote_types(heads.dtype, torch.float32)
        angles = self.angles(positions)[:, None]  # [B, 1, T, R/2]
        cosine, sine = (factor * angles.cos()).to(dtype), (factor * angles.sin()).to(dtype)
        turned, rest = heads[..., : self.turned_dim].to(dtype), heads[..., self.turned_dim :]
        if self.pairing == "halves":
            first, second = turned.chunk(2, dim=-1)  # [B, H, T, R/2] each
        else:
            first, second = turned[..., 0::2], turned[..., 1::2]
        pairs = (first * cosine - second * sine, second * cosine + first * sine)
        if self.pairing == "halves":
            turned = torch.cat(pairs, dim=-1)
        else:
            turned = torch.stack(pairs, dim=-1).flatten(-2)
        return torch.cat([turned.to(heads.dtype), rest], dim=-1)
