"""aiodataloader 0.4.3: a batch function that ends with CancelledError strands all callers.

`dispatch_queue_batch` catches Exception, which CancelledError is not since Python 3.8. The keys
stay in the cache, too: whoever asks for one of them later joins the dead future. No public thread
found. Breaks BatcherSuite.test_an_end_of_any_kind_leaves_nobody_waiting.
"""

from __future__ import annotations

from recorded import recorded
from stranded import callers_done, cancelled

aiodataloader = recorded("aiodataloader", "aiodataloader>=0.4.3,<0.5")


def test_callers_wait_for_ever_when_the_batch_was_cancelled() -> None:
    assert callers_done(lambda: aiodataloader.DataLoader(cancelled).load) == [False, False]
