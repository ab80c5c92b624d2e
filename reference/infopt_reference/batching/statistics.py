"""What a batcher counts. Its size depends on the largest batch, never on how many items came."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class BatcherStatistics:
    """Counted since the batcher was made.

    Of the submitted items, each is completed, failed, withdrawn or stopped once, and until then
    pending. A wait is the time from the call of submit to that of the batch function, in seconds;
    ``total_wait`` and ``longest_wait`` are those of the items that were sent.
    """

    num_submitted: int = 0
    num_completed: int = 0
    num_failed: int = 0
    num_withdrawn: int = 0  # the caller was cancelled, or its deadline passed
    num_expired: int = 0  # calls whose deadline passed
    num_stopped: int = 0  # by a stop that did not drain
    num_rejected: int = 0  # never submitted: the queue was full
    batch_sizes: Counter[int] = field(default_factory=Counter)  # how many batches of each size
    total_wait: float = 0.0
    longest_wait: float = 0.0

    @property
    def num_pending(self) -> int:
        """Items that wait or are being served."""
        ended = self.num_completed + self.num_failed + self.num_withdrawn + self.num_stopped
        return self.num_submitted - ended

    @property
    def num_batches(self) -> int:
        return self.batch_sizes.total()

    @property
    def num_sent(self) -> int:
        """Items of all batches."""
        return sum(size * count for size, count in self.batch_sizes.items())

    @property
    def mean_batch_size(self) -> float:
        """Items of a batch; 0 before the first."""
        return self.num_sent / max(1, self.num_batches)

    def record_batch(self, size: int, total_wait: float, longest_wait: float) -> None:
        """Counts a batch that is sent now."""
        self.batch_sizes[size] += 1
        self.total_wait += total_wait
        self.longest_wait = max(self.longest_wait, longest_wait)
