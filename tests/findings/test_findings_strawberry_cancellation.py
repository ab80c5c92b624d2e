"""strawberry-graphql 0.341: a batch function that ends with CancelledError strands all callers.

`dispatch_batch` catches Exception, which CancelledError is not since Python 3.8, so no future of
the batch is ever done. strawberry#4379 cancels the batch when all callers have gone; the other way
round is as before. Breaks BatcherSuite.test_an_end_of_any_kind_leaves_nobody_waiting.
"""

from __future__ import annotations

from recorded import recorded
from stranded import callers_done, cancelled

dataloader = recorded("strawberry.dataloader", "strawberry-graphql>=0.341,<0.342")


def test_callers_wait_for_ever_when_the_batch_was_cancelled() -> None:
    assert callers_done(lambda: dataloader.DataLoader(load_fn=cancelled).load) == [False, False]
