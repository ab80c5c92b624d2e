"""How far the outputs of a module are from those of its partner, summed up call by call."""

from __future__ import annotations

import math

import torch

__all__ = ["OutputError", "rows_of"]


class OutputError:
    """Sums of squares over all rows, by output channel: of the reference's ``signal``, of the
    ``error``, of the candidate's ``size``, and of both ``together``."""

    def __init__(self) -> None:
        self._sums = torch.zeros(4, 0, dtype=torch.float64)

    def add(self, output: torch.Tensor, expected: torch.Tensor) -> None:
        """Two outputs of one shape, [rows, channels]."""
        output, expected = output.double(), expected.double()
        terms = (expected**2, (output - expected) ** 2, output**2, output * expected)
        sums = torch.stack([term.sum(0) for term in terms]).cpu()
        self._sums = self._sums + sums if self._sums.shape == sums.shape else sums

    @property
    def seen(self) -> bool:
        """Whether the reference's outputs were more than zeros."""
        return self._total(0) > 0

    def _total(self, index: int) -> float:
        return float(self._sums[index].sum())

    @property
    def relative(self) -> float:
        """RMS error over the RMS of the reference's outputs."""
        signal, error = self._total(0), self._total(1)
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
        product = math.sqrt(self._total(0) * self._total(2))
        return self._total(3) / product if product else 0.0

    @property
    def slope(self) -> float:
        """How much larger the outputs are as a whole, median of the channels: 0.05 for × 1.05. A
        few channels of large values have no more say in it than others."""
        slopes = self._slopes
        return float(slopes.median()) if len(slopes) else 0.0

    @property
    def slope_error(self) -> float:
        """Standard error of that median, by the spread of the channels."""
        slopes = self._slopes
        if len(slopes) < _FEWEST:
            return math.inf
        spread = float((slopes - slopes.median()).abs().median())
        return _MEDIAN * _MAD * spread / math.sqrt(len(slopes))

    @property
    def _slopes(self) -> torch.Tensor:
        signal, together = self._sums[0], self._sums[3]
        return together[signal > 0] / signal[signal > 0] - 1


_FEWEST = 2  # channels: one has no spread
_MAD = 1.4826  # standard deviations of a normal distribution in a median absolute deviation
_MEDIAN = 1.2533  # standard error of a median over that of a mean, √(π/2)


def rows_of(output: torch.Tensor) -> torch.Tensor:
    """An output as [rows, features]."""
    return output.detach().reshape(-1, output.shape[-1]) if output.ndim else output.detach()[None]
