"""A machine's roofline: what arithmetic a second is within reach, by what is done with each byte.

    I      arithmetic intensity: floating-point operations for each byte that is moved
    roof   min(peak, I · bandwidth), operations a second

Contract. Both ceilings are measured on the device, in the dtype that computes: the peak by products
of square matrices, the bandwidth by products of a large matrix with a vector, as a decoding step
makes them. They are what the library reaches, not what a data sheet says. The fastest of the rounds
counts: whatever disturbs makes one slower.
Source: Williams, Waterman, Patterson 2009, "Roofline: an insightful visual performance model".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SIDE = {"cpu": 512}  # of the square matrices
_LARGER = 4096  # on devices that such small ones do not fill
_ROWS, _COLUMNS = 4096, 8192  # of the large one: beyond any cache


@dataclass(frozen=True)
class Roofline:
    """``peak`` in operations a second, ``bandwidth`` in bytes a second."""

    peak: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """The intensity from which arithmetic bounds, and memory no longer does."""
        return self.peak / self.bandwidth

    def roof(self, intensity: float) -> float:
        """Operations a second within reach at an intensity."""
        return min(self.peak, intensity * self.bandwidth)


def measure_roofline(
    device: torch.device,
    dtype: torch.dtype,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> Roofline:
    """The ceilings of a device in a floating-point dtype.

    Raises:
        ValueError: the rounds are fewer than 1.
    """
    import torch  # definitions and meters beside it do without

    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; give 1 or more")
    side = _SIDE.get(device.type, _LARGER)
    square = torch.ones(side, side, device=device, dtype=dtype)
    large = torch.ones(_ROWS, _COLUMNS, device=device, dtype=dtype)
    vector = torch.ones(_COLUMNS, device=device, dtype=dtype)
    peak = 2 * side**3 / _fastest(lambda: square @ square, device, rounds, clock)
    moved = large.numel() * large.element_size()
    return Roofline(peak, moved / _fastest(lambda: large @ vector, device, rounds, clock))


def _fastest(
    compute: Callable[[], object], device: torch.device, rounds: int, clock: Callable[[], float]
) -> float:
    """Seconds of the fastest of so many runs, after one that is not timed."""
    import torch

    taken = []
    for _ in range(1 + rounds):
        started = clock()
        compute()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(clock() - started)
    return min(taken[1:])
