"""batched 0.1.5: a text of the right length is taken for one result each.

`_validate_batch_output` compares lengths alone, so a batch function that returns an error message,
or a dict, answers its callers with letters, or keys. Found by
BatcherSuite.test_what_is_no_list_of_results_fails_the_call and
EmbeddingBatcherSuite.test_a_wrong_number_of_vectors_fails_the_call
(tests/third_party/test_third_party_batchers.py).
"""

from __future__ import annotations

import asyncio
from typing import Any

from batched.aio import AsyncBatchProcessor
from infopt_suites.batching.clock import run_virtual


def test_callers_get_the_letters_of_a_text() -> None:
    async def batch_function(items: list[int]) -> Any:
        return "no"

    async def ask() -> list[Any]:
        processor: Any = AsyncBatchProcessor(batch_function, batch_size=2, timeout_ms=10)
        return await asyncio.gather(processor(1), processor(2))

    assert run_virtual(ask()) == ["n", "o"], "batched refuses texts: drop its expected failures"
