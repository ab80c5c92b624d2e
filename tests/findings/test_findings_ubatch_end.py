"""ubatch 1.0.0: a handler that raises what is no Exception strands all callers, now and later.

`_procces_in_batch` catches Exception. SystemExit, as ``sys.exit`` in a handler raises it, ends the
only thread: its callers look for their result for ever, and so does whoever comes later. No public
thread found. Breaks BatcherSuite.test_an_end_of_any_kind_leaves_nobody_waiting.
"""

from __future__ import annotations

import pytest
from recorded import recorded

ubatch = recorded("ubatch", "ubatch>=1.0,<1.1")
requests = recorded("ubatch.data_request", "ubatch>=1.0,<1.1")


@pytest.mark.filterwarnings("ignore:setDaemon")
def test_the_only_thread_ends_and_its_caller_waits() -> None:
    def ends(items: list[int]) -> list[int]:
        raise SystemExit

    batcher = ubatch.UBatch(max_size=1, timeout=0.01)
    batcher.set_handler(ends)
    batcher.start()
    worker = batcher._thread
    request = requests._DataRequest(timeout=0.01, args=(1,))  # what `UBatch.ubatch` waits for
    batcher._requests_queue.put(request)
    worker.join(60.0)
    assert not worker.is_alive()
    assert not request.ready
