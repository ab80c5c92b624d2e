"""What speculative decoding did, in numbers that add up.

    emitted = target_passes + accepted − 1 if the output ends with an accepted token, else
    emitted = target_passes + accepted

Contract. A draft that was right but stands behind the end of the output is drafted, not accepted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SpeculativeStatistics:
    """Counted over one output, or summed over several."""

    target_passes: int = 0
    drafted: int = 0
    accepted: int = 0  # drafted tokens that are part of the output
    emitted: int = 0

    @property
    def acceptance_rate(self) -> float:
        """The share of drafted tokens that were emitted; NaN without drafts."""
        return self.accepted / self.drafted if self.drafted else float("nan")

    @property
    def tokens_per_pass(self) -> float:
        """Emitted tokens a pass of the target; NaN without passes."""
        return self.emitted / self.target_passes if self.target_passes else float("nan")

    def __add__(self, other: SpeculativeStatistics) -> SpeculativeStatistics:
        return SpeculativeStatistics(
            self.target_passes + other.target_passes,
            self.drafted + other.drafted,
            self.accepted + other.accepted,
            self.emitted + other.emitted,
        )
