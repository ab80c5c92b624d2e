"""Shares with their exact intervals: how many of so many, and what that says of the rate.

The intervals are those of `binomial`, half of the error on each side.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_infopt.binomial import upper_bound

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Proportion:
    """``events`` of ``trials``, and the interval of the rate behind them (0…1 for no trials).

    Raises ValueError unless 0 ≤ events ≤ trials.
    """

    events: int
    trials: int

    def __post_init__(self) -> None:
        if not 0 <= self.events <= self.trials:
            raise ValueError(f"{self.events} events of {self.trials}; give 0…{self.trials}")

    @property
    def share(self) -> float | None:
        """None for no trials."""
        return self.events / self.trials if self.trials else None

    @property
    def interval(self) -> tuple[float, float]:
        """The two-sided exact interval of 95 % confidence, half of the error on each side."""
        alpha = (1 - CONFIDENCE) / 2
        return (
            1 - upper_bound(self.trials - self.events, self.trials, alpha),
            upper_bound(self.events, self.trials, alpha),
        )
