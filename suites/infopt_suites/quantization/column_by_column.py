"""GPTQ's problem solved the slow way: an oracle, column by column, in float64.

For each column q of the columns that remain, with the inverse of their damped Hessian:

    δ = − (w_q − quant(w_q)) / [H⁻¹]_qq · (H⁻¹)_q,:        the others make up for the error
    H⁻¹ ← H⁻¹ − (H⁻¹)_:,q (H⁻¹)_q,: / [H⁻¹]_qq             column q leaves the problem

Source: Frantar et al. 2022, "GPTQ", arXiv:2210.17323, equations (2) and (3). Written apart from
`infopt_reference.quantization.gptq`, which has neither blocks nor factors in common with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from infopt_reference.quantization import Granularity, QuantizationScheme
from torch import Tensor

from .grids import grid_of


@dataclass(frozen=True)
class Path:
    """What each weight [M, K] was rounded to, and how clear a decision that was."""

    rounded: Tensor
    step: Tensor  # the scale at that weight
    from_tie: Tensor  # distance to the middle of two levels, in steps
    reach: float  # distances up to this are decided by rounding in float32
    order: Tensor  # [K], the columns as they were rounded

    def first_unexplained_step(self, found: Tensor) -> tuple[int | None, int]:
        """Row and column where a weight took another level without a tie; None if there is none.

        After its first other level a row goes a way of its own, and says no more.
        """
        other = ~((found.double() - self.rounded).abs() <= self.step / 4)
        for row in other.any(dim=1).nonzero()[:, 0].tolist():
            column = int(self.order[other[row, self.order].nonzero()[0]])
            if float(self.from_tie[row, column]) > self.reach:
                return row, column
        return None, 0


def column_by_column(
    weight: Tensor,
    inputs: Tensor,
    scheme: QuantizationScheme,
    damping: float,
    *,
    static_groups: bool = False,
    order: Tensor | None = None,
) -> Path:
    """Rounds a weight [M, K] for inputs [N, K], in a scheme of equal steps.

    Args:
        static_groups: scales come from the original weights; else each group of columns, as they
            are rounded, gets its scales when its turn comes.
        order: the columns as they are rounded, int64 [K]; from the first to the last by default.
    """
    columns, size = weight.shape[1], scheme.group_size or weight.shape[1]
    order = torch.arange(columns) if order is None else order
    hessian = damped_hessian(inputs, damping)[order][:, order]
    remaining, inverse = weight.double()[:, order], torch.linalg.inv(hessian)
    starts = range(0, columns, size)
    static = [_Levels.of(weight.double()[:, i : i + size], scheme) for i in starts]
    result, step, from_tie = (torch.empty_like(remaining) for _ in range(3))
    for place, column in enumerate(order.tolist()):
        if static_groups:
            grid = static[column // size]
        elif place % size == 0:
            grid = _Levels.of(remaining[:, place : place + size], scheme)
        here = remaining[:, place]
        result[:, column], from_tie[:, column] = grid.nearest(here)
        step[:, column] = grid.scale
        error = (here - result[:, column]) / inverse[0, 0]  # [M]
        remaining[:, place + 1 :] -= error[:, None] * inverse[0, 1:]
        inverse = inverse[1:, 1:] - torch.outer(inverse[1:, 0], inverse[0, 1:]) / inverse[0, 0]
    # Roundings of K float32 updates add up like √K, and the inverse magnifies them.
    rounding = 2 * columns**0.5 * torch.finfo(torch.float32).eps
    reach = rounding * float(torch.linalg.cond(hessian)) * grid_of(scheme).steps
    return Path(result, step, from_tie, reach, order)


def damped_hessian(inputs: Tensor, damping: float) -> Tensor:
    """2/N · XᵀX of inputs [N, K], with ``damping`` of its mean diagonal added to it. Float64."""
    tokens = inputs.double()
    hessian = 2 / len(tokens) * tokens.T @ tokens  # [K, K]
    ridge = damping * hessian.diagonal().mean()
    return hessian + ridge * torch.eye(len(hessian), dtype=torch.float64)


@dataclass(frozen=True)
class _Levels:
    """low … high times scale, [M] each; scales as they are stored."""

    scale: Tensor
    low: Tensor
    high: Tensor
    unclear: Tensor  # distance of the zero point from a tie

    @classmethod
    def of(cls, weights: Tensor, scheme: QuantizationScheme) -> _Levels:
        if scheme.granularity is Granularity.TENSOR:
            weights = weights.reshape(1, -1).expand(len(weights), -1)
        steps = grid_of(scheme).steps
        low, high = weights.amin(dim=1).clamp(max=0), weights.amax(dim=1).clamp(min=0)
        reach = torch.maximum(-low, high) if scheme.symmetric else high - low
        scale = (reach / steps).to(scheme.scale_dtype).double()
        if scheme.symmetric:
            ends = torch.full_like(scale, steps)
            return cls(scale, -ends, ends, torch.full_like(scale, 0.5))
        zero = (-low / scale).round().clamp(0, steps)
        return cls(scale, -zero, steps - zero, _from_tie(-low / scale))

    def nearest(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Levels, and how far from a tie each was, in steps."""
        steps = weights / self.scale
        levels = torch.minimum(torch.maximum(steps.round(), self.low), self.high)
        return levels * self.scale, torch.minimum(_from_tie(steps), self.unclear)


def _from_tie(steps: Tensor) -> Tensor:
    return ((steps - steps.floor()) - 0.5).abs()
