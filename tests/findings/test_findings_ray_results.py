"""ray 2.60: a text of the right length is taken for the results of ray.serve.batch.

`_validate_results` compares lengths, which bytes and texts have: each caller gets a number or a
letter of what was no list of results. No public thread found; since ray#8378, any iterable but a
dict or a set counts. Breaks BatcherSuite.test_what_is_no_list_of_results_fails_the_call.
"""

from __future__ import annotations

import asyncio

import pytest
import ray_serve
from recorded import recorded

serve = recorded("ray.serve", "ray>=2.60,<2.61")


def test_bytes_are_given_out_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_serve.alone(serve, monkeypatch)

    async def wrong(items: list[int]) -> bytes:
        return b"xy"

    async def ask() -> list[int]:
        load = serve.batch(max_batch_size=2, batch_wait_timeout_s=60.0)(wrong)
        return list(await asyncio.gather(load(1), load(2)))

    assert asyncio.run(ask()) == [*b"xy"]
