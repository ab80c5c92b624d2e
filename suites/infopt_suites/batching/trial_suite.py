"""Suites whose properties are scenarios on a trial: a batcher, its callers, virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any, ClassVar

import pytest

from ..base import Suite
from ..properties import noted
from .batcher_calls import WRONG, Serve, after
from .batcher_trial import REAL_PATIENCE, Declared, Trial
from .clock import SPEED, run_real, run_virtual
from .protocol import BatchPolicy

Scenario = Callable[[Any], Awaitable[None]]  # on a trial


class TrialSuite(Suite):
    """What the suites of batchers have in common: the sizes tried, and how batchers differ."""

    batch_sizes: ClassVar[Sequence[int]] = (1, 2, 3, 5)
    max_wait: ClassVar[float] = 8.0  # seconds of virtual time
    wrong_results: ClassVar[Collection[str]] = frozenset(WRONG)
    sends_at_once: ClassVar[bool] = False
    unbounded_calls: ClassVar[bool] = False
    retries_one_by_one: ClassVar[bool] = False
    recovers_within: ClassVar[float] = 0.0
    virtual: ClassVar[bool] = True
    _trial = Trial
    _blocked = list[str]()  # noqa: RUF012  # see `VirtualClock`; each implementation has its own

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._blocked = []

    @property
    def declared(self) -> Declared:
        """The class attributes, as a trial takes them."""
        words = {each.name: getattr(self, each.name) for each in fields(Declared)}
        return Declared(**{**words, "capabilities": frozenset(self.capabilities)})

    def most_calls(self, count: int, size: int, slots: int = 1) -> int:
        """Calls that so many items of one turn may take, while ``slots`` calls could begin."""
        alone = min(slots, count) if self.sends_at_once else 0  # one in each slot
        return alone + -(-(count - alone) // size)

    def run_each_size(
        self, make: Any, scenario: Scenario, serve: Serve | float = 0.0, **options: Any
    ) -> None:
        """`run` with each of ``batch_sizes``."""
        __tracebackhide__ = True
        for size in self.batch_sizes:
            self.run(make, scenario, serve, size, **options)

    def run(
        self,
        make: Any,
        scenario: Scenario,
        serve: Serve | float = 0.0,
        size: int = 3,
        *,
        judged: bool = True,
        window: bool = True,
        timeless: bool = False,
        **policy: float,
    ) -> None:
        """Run a scenario on a batcher that has started, and check its calls.

        ``make``: the suite's fixture. ``serve``: what a call does, or how many seconds it takes.
        ``judged``, ``window``: whether calls are checked, and their times. ``timeless``: nothing in
        it depends on who is how late, so that it holds on the real clock as well.
        """
        __tracebackhide__ = True
        if not timeless:
            self.need_virtual_time()

        made = BatchPolicy(size, **{"max_wait": self.max_wait, **policy})  # type: ignore[arg-type]  # its own fields
        does = after(serve) if isinstance(serve, int | float) else serve
        alive: list[Trial] = []  # a worker that is still there must not be collected with it

        async def trying() -> None:
            alive.append(self._trial(make, made, does, self.declared))
            await alive[0].start()
            await scenario(alive[0])
            if judged:
                alive[0].check(window=window and self.virtual)

        async def trying_with_threads() -> None:
            try:
                await trying()
            finally:  # of which none goes on
                with suppress(Exception):
                    await asyncio.wait_for(alive[0].stop(), REAL_PATIENCE * SPEED)

        with noted(f"on a batcher of {made}"):
            if self.virtual:
                run_virtual(trying(), self._blocked)
            else:
                run_real(trying_with_threads(), self._blocked)

    def need_virtual_time(self) -> None:
        """Skip a property that holds as long as nobody is late."""
        if not self.virtual:
            pytest.skip("it depends on times, which virtual time alone keeps; virtual is False")
