"""How far the outputs of a module are from those of its partner, summed up call by call."""

from __future__ import annotations

import math

import torch

__all__ = ["OutputError", "rows_of"]


class OutputError:
    """Sums of squares over all outputs: of the reference's, of the error, of the candidate's, and
    of the product of both."""

    def __init__(self) -> None:
        self._sums = [0.0] * 4

    def add(self, output: torch.Tensor, expected: torch.Tensor) -> None:
        """Two outputs of one shape, [rows, channels]."""
        output, expected = output.double(), expected.double()
        terms = (expected**2, (output - expected) ** 2, output**2, output * expected)
        self._sums = [
            sum_ + float(term.sum()) for sum_, term in zip(self._sums, terms, strict=True)
        ]

    @property
    def relative(self) -> float:
        """RMS error over the RMS of the reference's outputs."""
        signal, error = self._sums[0], self._sums[1]
        if not signal:
            return math.inf if error else 0.0
        return math.sqrt(error / signal)

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio, in dB; infinite for equal outputs."""
        relative = self.relative
        return -20 * math.log10(relative) if relative else math.inf

    @property
    def cosine(self) -> float:
        product = math.sqrt(self._sums[0] * self._sums[2])
        return self._sums[3] / product if product else 0.0


def rows_of(output: torch.Tensor) -> torch.Tensor:
    """An output as [rows, features]."""
    return output.detach().reshape(-1, output.shape[-1]) if output.ndim else output.detach()[None]
