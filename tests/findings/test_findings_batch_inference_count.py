"""batch-inference 1.0: responses beyond the number of requests are dropped without a word.

`ModelHost` takes ``responses[i]`` for the i-th request, so that a model which answers once too
often, and shifts all answers after that, is not noticed. The ready batchers slice the response by
the sizes of the requests, and drop the rest as well. No public thread found. Breaks
BatcherSuite.test_a_wrong_number_of_results_fails_the_call.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from recorded import recorded

aio = recorded("batch_inference.aio", "batch-inference>=1.0,<1.1")
batchers = recorded("batch_inference.batcher", "batch-inference>=1.0,<1.1")


class Doubling:
    def predict_batch(self, numbers: Any) -> Any:
        return np.concatenate([[0], 2 * numbers])  # one too many, at the beginning


def test_all_callers_get_the_answer_of_another() -> None:
    async def ask() -> list[int]:
        batcher = batchers.ConcatBatcher()
        host = aio.ModelHost(model_obj=Doubling(), batcher=batcher, wait_ms=60_000, wait_n=2)
        async with host:
            answers = await asyncio.gather(*(host.predict(np.array([n])) for n in (1, 2)))
        return [int(answer[0]) for answer in answers]

    assert asyncio.run(ask()) == [0, 2]  # of 1 and 2, the doubles are 2 and 4
