"""ray 2.60: a function of ray.serve.batch that ends with CancelledError strands all callers.

`_assign_func_results` and `_process_batch_inner` catch Exception, which CancelledError is not since
Python 3.8, so no future of the batch is ever done. Neighbours are known: ray#50046 (callers that
are cancelled; mended) and ray#66140 (an exception of batch_size_fn). Breaks
BatcherSuite.test_an_end_of_any_kind_leaves_nobody_waiting.
"""

from __future__ import annotations

import pytest
import ray_serve
from recorded import recorded
from stranded import callers_done, cancelled

serve = recorded("ray.serve", "ray>=2.60,<2.61")


def test_callers_wait_for_ever_when_the_batch_was_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray_serve.alone(serve, monkeypatch)
    load = serve.batch(max_batch_size=2, batch_wait_timeout_s=1.0)(cancelled)
    assert callers_done(lambda: load) == [False, False]
