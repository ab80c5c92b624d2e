"""strawberry-graphql 0.341: a StopIteration among the values fails the keys behind it, too.

A loader hands an exception among the values to the caller of that key alone. Futures refuse
StopIteration with a TypeError, which `dispatch_batch` then gives to all callers that have no
outcome yet. No public thread found. Breaks
BatcherSuite.test_an_exception_among_the_results_fails_its_item_alone.
"""

from __future__ import annotations

import asyncio

from infopt_suites.batching.clock import run_virtual
from recorded import recorded

dataloader = recorded("strawberry.dataloader", "strawberry-graphql>=0.341,<0.342")


async def first_has_none(keys: list[int]) -> list[object]:
    return [StopIteration() if key == 1 else key for key in keys]


def test_a_neighbour_gets_a_type_error() -> None:
    async def ask() -> list[object]:
        loader = dataloader.DataLoader(load_fn=first_has_none)
        return await asyncio.gather(loader.load(1), loader.load(2), return_exceptions=True)

    assert [type(found) for found in run_virtual(ask())] == [TypeError, TypeError]
