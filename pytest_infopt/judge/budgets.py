"""Budgets: a limit on a metric, with the unit it was written in and where it was written."""

from __future__ import annotations

from dataclasses import dataclass

from ..metrics import Metric


@dataclass(frozen=True)
class Budget:
    """A limit on ``metric`` in the metric's unit.

    ``relative`` marks a limit on bytes that was written as a share of the reference's ("0.3x"): the
    limit is then that factor. ``origin`` says where the limit comes from, for messages.
    """

    metric: Metric
    limit: float
    relative: bool = False
    origin: str = "default"
