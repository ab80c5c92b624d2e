"""When a batcher sends a batch, how many at a time, and how many items may wait."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchPolicy:
    """Bounds of a batcher.

    Args:
        max_batch_size: the most items of one call of the batch function.
        max_wait: seconds that an item may wait for others while a slot is free. 0 sends what is
            there at the end of the event loop's turn; infinity waits for a full batch.
        max_queue_size: the most items that wait in the batcher; None for any number. Further
            callers wait outside, in their order.
        max_concurrency: the most calls of the batch function at a time, its slots.
        reject_when_full: further callers get a `QueueFullError` at once instead.

    Raises:
        ValueError: a number is out of its range, or ``reject_when_full`` has no bound.
    """

    max_batch_size: int
    max_wait: float = 0.0
    max_queue_size: int | None = None
    max_concurrency: int = 1
    reject_when_full: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_concurrency", "max_queue_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more")
        if not self.max_wait >= 0:  # NaN neither
            raise ValueError(f"max_wait is {self.max_wait}; give 0 seconds or more")
        if self.reject_when_full and self.max_queue_size is None:
            raise ValueError("reject_when_full needs a bound; give max_queue_size")

    @property
    def largest_batch(self) -> int:
        """Items of a full batch; a queue that holds fewer than ``max_batch_size`` limits it."""
        if self.max_queue_size is None:
            return self.max_batch_size
        return min(self.max_batch_size, self.max_queue_size)
