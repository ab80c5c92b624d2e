"""The levels that a quantizer which goes column by column rounds to: scales by column.

Scales per tensor, per channel and of static groups are those that `quantize` gives the whole
weight. Those of updated groups come from a group's weights as they are when its first column is
reached, by when the errors of all columns before it have been made good.

Legend: M output features (rows), K input features (columns), G groups along K.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .packing import pack
from .quantized import QuantizedTensor, quantize
from .scheme import Granularity, QuantizationScheme


class StaticGrid:
    """Scales known beforehand: those of the weight [M, K] rounded to nearest."""

    updated_group_size: int | None = None

    def __init__(self, nearest: QuantizedTensor) -> None:
        self.scheme = nearest.scheme
        self._nearest = nearest
        rows, columns = nearest.shape
        self._group_size = self.scheme.group_size or columns
        self._scales = _by_group(nearest.scales.double(), rows)
        zero_points = nearest.zero_points
        self._zero_points = None if zero_points is None else _by_group(zero_points, rows)

    def constants(self, column: int, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scales, float64, and zero points of the weights of a column, [M, 1] each.

        ``columns``: all weights, transposed [K, M], updated as far as the column before this one.
        """
        group = column // self._group_size
        zero_points = self._zero_points
        return self._scales[group], None if zero_points is None else zero_points[group]

    def finish(self, codes: Tensor) -> QuantizedTensor:
        """The quantized weight with these codes [M, K]."""
        return replace(self._nearest, codes=pack(codes, self.scheme.stored_bits))


class UpdatedGroups:
    """Scales of a group, taken from the updated weights when its first column is reached."""

    def __init__(self, scheme: QuantizationScheme, dtype: torch.dtype) -> None:
        assert scheme.group_size is not None
        self.scheme = scheme
        self.updated_group_size: int = scheme.group_size
        self._dtype = dtype
        # A group on its own is a matrix with one scale for each of its rows.
        self._group_scheme = replace(
            scheme, granularity=Granularity.CHANNEL, group_size=None, packed=False
        )
        self._groups: list[QuantizedTensor] = []

    def constants(self, column: int, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        """As of `StaticGrid`; columns are asked for in their order."""
        if column % self.updated_group_size == 0:
            weights = columns[column : column + self.updated_group_size].T
            self._groups.append(quantize(weights, self._group_scheme))
        return self._groups[-1].columns(torch.float64)

    def finish(self, codes: Tensor) -> QuantizedTensor:
        """The quantized weight with these codes [M, K]."""
        zero_points = [group.zero_points for group in self._groups if group.zero_points is not None]
        return QuantizedTensor(
            scheme=self.scheme,
            shape=codes.shape,
            dtype=self._dtype,
            codes=pack(codes, self.scheme.stored_bits),
            stored_scales=torch.stack([group.stored_scales for group in self._groups], dim=1),
            zero_points=torch.stack(zero_points, dim=1) if zero_points else None,
        )


def _by_group(constants: Tensor, rows: int) -> Tensor:
    """Scales or zero points of shape (), [M] or [M, G] as [G, M, 1]."""
    return (
        constants.reshape(-1, constants.shape[1] if constants.ndim == 2 else 1)
        .expand(rows, -1)
        .T.contiguous()[..., None]
    )
