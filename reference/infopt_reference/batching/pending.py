"""The line of items that wait for a batch, first in, first out.

An item may be withdrawn from the middle. It then stays as an empty entry until the line reaches it,
or until the empty ones are more than the others: so a step costs O(1) over any n steps, and a
backend that hangs while its callers give up and come back does not fill the memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, eq=False)
class Entry:
    """An item that waits: its caller's future, when it came, and the line in which it stands."""

    future: asyncio.Future[Any]
    item: Any
    time: float  # of the event loop's clock, in seconds
    line: PendingItems | None


class PendingItems(deque[Entry]):
    """Entries in their order, some of them withdrawn; a deque, for its speed."""

    num_withdrawn = 0

    @property
    def num_waiting(self) -> int:
        return len(self) - self.num_withdrawn

    def withdraw(self, entry: Entry) -> None:
        """Takes out an entry that stands in this line."""
        entry.line = entry.item = None
        self.num_withdrawn += 1
        if self.num_withdrawn > len(self) // 2:
            kept = [other for other in self if other.line is self]
            self.clear()
            self.extend(kept)
            self.num_withdrawn = 0

    def take(self, count: int) -> list[Entry]:
        """Removes up to ``count`` entries from the front, of those somebody still waits for.

        A cancelled future may stand here as not withdrawn yet: its caller learns of it only in the
        event loop's next turn.
        """
        taken: list[Entry] = []
        while self and len(taken) < count:
            entry = self.popleft()
            if entry.line is None:
                self.num_withdrawn -= 1
                continue
            entry.line = None
            if not entry.future.done():
                taken.append(entry)
        return taken

    def put_back(self, entries: Sequence[Entry]) -> None:
        """Undoes a `take`."""
        for entry in entries:
            entry.line = self
        self.extendleft(reversed(entries))
