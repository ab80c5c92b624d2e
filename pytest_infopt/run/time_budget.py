"""How long a gate may measure."""

from __future__ import annotations

import time


class TimeBudget:
    """A gate's time: it begins with the first collection, so that loading models is not charged."""

    def __init__(self) -> None:
        self._deadline: float | None = None

    def deadline(self, granted: float, own: float | None) -> float:
        """When a collection ends, in seconds of `time.monotonic`: after its ``own`` seconds, or
        when the gate's ``granted`` ones are over."""
        now = time.monotonic()
        if own is not None:
            return now + own
        if self._deadline is None:
            self._deadline = now + granted
        return self._deadline
