"""What goes into a batcher and what comes out: items, callers, calls of the batch function."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Serve = Callable[["Call"], Awaitable[Any]]


@dataclass(eq=False)
class Item:
    """What is submitted: one like no other."""

    number: int

    def __repr__(self) -> str:
        return f"item {self.number}"


@dataclass(eq=False)
class Call:
    """A call of the batch function.

    ``outcome``: what ends it, where the test decides that. ``error``: what it raised. ``spoiled``:
    it returned what is no list of one result for each item.
    """

    index: int
    items: list[Any]
    started: float
    outcome: asyncio.Future[Any]
    ended: float | None = None
    error: BaseException | None = None
    spoiled: bool = False

    @property
    def failed(self) -> bool:
        return self.error is not None or self.spoiled

    def answers(self) -> list[Any]:
        return [answer(item) for item in self.items]


@dataclass(eq=False)
class Caller:
    """A task that waits for its item's result."""

    item: Any
    submitted: float
    task: asyncio.Task[Any]
    ended: float | None = None

    def end(self, task: asyncio.Task[Any]) -> None:
        self.ended = task.get_loop().time()
        _ = self.error  # of callers that nobody asks, asyncio would tell it

    @property
    def name(self) -> str:
        return self.task.get_name()

    @property
    def error(self) -> BaseException | None:
        """What it got instead of a result, its own cancellation among them."""
        if self.task.cancelled():
            return asyncio.CancelledError()
        return self.task.exception()

    @property
    def served(self) -> bool:
        return self.task.done() and self.error is None


def after(seconds: float) -> Serve:
    """A batch function that answers after some time."""

    async def serve(call: Call) -> Any:
        await asyncio.sleep(seconds)
        return call.answers()

    return serve


async def held(call: Call) -> Any:
    """A batch function that answers when the test lets the call `finish`."""
    return await call.outcome


def finish(call: Call, error: BaseException | None = None) -> None:
    """End a held call."""
    if not call.outcome.done():  # a batcher may have cancelled it
        if error is None:
            call.outcome.set_result(call.answers())
        else:
            call.outcome.set_exception(error)


def told(calls: Sequence[Call], most: int = 12) -> str:
    """Calls in words."""
    words = [
        f"[{', '.join(map(named, call.items))}] at {call.started:g} s" for call in calls[:most]
    ]
    return "; ".join(words) + ("; …" if len(calls) > most else "")


def named(item: Any) -> str:
    """An item in words, which need not be willing to be shown."""
    if isinstance(item, Item | str):
        return repr(item)
    return f"an object of {type(item).__name__}"


def answer(item: Any) -> Any:
    """The right result: no two items have the same."""
    return ("answer to", id(item))


def others(callers: list[Caller], gone: list[int]) -> list[Caller]:
    return [caller for place, caller in enumerate(callers) if place not in gone]


def check_told(caller: Caller, error: BaseException) -> None:
    """Raise AssertionError unless a caller got this error, or one that names it as its cause."""
    seen: list[BaseException] = []
    raised = caller.error
    while raised is not None and raised not in seen:
        if raised is error:
            return
        seen.append(raised)
        raised = raised.__cause__ or raised.__context__
    raise AssertionError(
        f"{caller.name} of a call that raised {error!r} got {seen[0] if seen else 'a result'!r}"
    )


# What is no list of one result for each of n items.
WRONG: Mapping[str, Callable[[Call], Any]] = MappingProxyType(
    {
        "none": lambda call: None,
        "number": lambda call: len(call.items),
        "string": lambda call: "x" * len(call.items),
        "bytes": lambda call: b"x" * len(call.items),
        "mapping": lambda call: dict.fromkeys(range(len(call.items))),
        "set": lambda call: set(range(len(call.items))),
    }
)

MISCOUNTED: Mapping[str, Callable[[Call], Any]] = MappingProxyType(
    {
        "one too few": lambda call: call.answers()[:-1],
        "one too many": lambda call: [*call.answers(), call.answers()[-1]],
        "an empty list": lambda call: [],
    }
)
