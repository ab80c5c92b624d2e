"""smartbatch 0.4.0: a batch function that ends with CancelledError strands all callers.

`_worker_loop` takes CancelledError for its own end and leaves the loop, with the batch in its
hands. The next caller starts another worker, which knows nothing of them. No public thread found.
Breaks BatcherSuite.test_an_end_of_any_kind_leaves_nobody_waiting.
"""

from __future__ import annotations

from recorded import recorded
from stranded import callers_done, cancelled

smartbatch = recorded("smartbatch", "smartbatch>=0.4,<0.5")


def test_callers_wait_for_ever_when_the_batch_was_cancelled() -> None:
    assert callers_done(lambda: smartbatch.batch(max_batch_size=2)(cancelled)) == [False, False]
