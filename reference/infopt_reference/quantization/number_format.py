"""The contract of a number format.

A format turns rows of weights into integer codes and back. It knows nothing of tensors' shapes
(`grouping`), of how scales (`scales`) or codes (`packing`) are stored. A further format is a file
with an object that keeps this contract, and its entry in `scheme.FORMATS_AND_PLACES`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class NumberFormat(Protocol):
    """Codes of ``bits`` bits, held in ``code_dtype`` (int8 when they are signed, else uint8).

    A group is a row: R rows of n weights each, scales and zero points of shape [R, 1].
    """

    @property
    def name(self) -> str | None:
        """What a scheme's ``codebook`` calls it; None when steps are equal."""

    @property
    def bits(self) -> int:
        """Bits of a code."""

    @property
    def code_dtype(self) -> torch.dtype:
        """torch.int8 or torch.uint8."""

    @property
    def extent(self) -> float:
        """How many scales a group's range spans: scale = range / extent."""

    @property
    def rounding_error(self) -> float:
        """Largest error of a weight that is not clipped, in scales."""

    def ideal_scales(self, low: Tensor, high: Tensor) -> Tensor:
        """Scales, float64, before storage, of groups with these smallest and largest weights."""

    def zero_points(self, low: Tensor, scales: Tensor) -> Tensor | None:
        """Zero points, uint8, for the scales as stored; None when 0 is always at code 0."""

    def encode(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Codes of float64 rows."""

    def decode(self, codes: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Weights, in the dtype of the scales."""

    def half_gaps(self, rows: Tensor, scales: Tensor, zero_points: Tensor | None) -> Tensor:
        """Half the distance between the two levels around each weight, float64 [R, n].

        That is how far rounding to the nearer one may move it. inf beyond the outermost levels.
        """
