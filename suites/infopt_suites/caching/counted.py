"""Computations that say how often they were run, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from .protocol import Answer, Request
from .requests import reply


class Computation:
    """Called in place of a model: each call has an answer of its own, or the error it was given.

    ``held``: calls wait until `go`, so that others come meanwhile, however busy the machine is.
    ``begun`` is set by the first call.
    """

    def __init__(self, answer: Answer | BaseException | None = None, *, held: bool = False) -> None:
        self.answer, self.calls = answer, 0
        self.begun, self._released = asyncio.Event(), asyncio.Event()
        if not held:
            self.go()

    def go(self) -> None:
        """Let the calls end."""
        self._released.set()

    async def __call__(self) -> Answer:
        self.calls += 1
        call = self.calls
        self.begun.set()
        await asyncio.sleep(0)
        await self._released.wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return reply(f"computed {call}") if self.answer is None else self.answer


class BatchComputation:
    """Answers a batch as services do: in an order of its own, each with its place as ``index``."""

    def __init__(self) -> None:
        self.batches: list[list[Request]] = []
        self.error: BaseException | None = None

    async def __call__(self, requests: Sequence[Request]) -> Sequence[Answer]:
        self.batches.append([*requests])
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return [answer_to(each, index) for index, each in enumerate(requests)][::-1]


def answer_to(request: Request, index: int) -> dict[str, Any]:
    """The answer of `BatchComputation` to a request at this place."""
    question = request["messages"][-1]["content"]
    return reply(f"answer to {question}", index=index)
