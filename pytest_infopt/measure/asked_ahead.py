"""Replicas of a server share a gate's requests; the gate reads the answers in its own order."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from ..engines.base import Engine

Unit = TypeVar("Unit", bound=Hashable)
Answer = TypeVar("Answer")
_AHEAD = 2  # units a replica: the one that it answers, and its next


class AskedAhead(Generic[Unit, Answer]):
    """``ask`` as a function of the units alone, which are needed in about their order.

    Unit i is asked of engine i modulo their number, one request at a time each, a few units before
    it is needed. As an answer depends on its unit alone, samples, their order and the verdict are
    those of one engine that is asked for one unit after the other. One engine is asked when the
    unit is needed, in the caller's thread; of several each in a thread of its own. What ``ask``
    raises comes where its unit is needed. ``whole``: all units are asked for with the first, of an
    engine to which going back and forth is dear.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        units: Sequence[Unit],
        ask: Callable[[Engine, Unit], Answer],
        *,
        whole: bool = False,
    ) -> None:
        self._engines = engines
        self._units = units
        self._ask = ask
        self._places = {unit: place for place, unit in enumerate(units)}
        self._whole = whole
        self._threads = [ThreadPoolExecutor(1) for _ in engines]
        self._answers: dict[int, Future[Answer]] = {}

    def __call__(self, unit: Unit) -> Answer:
        if len(self._engines) == 1 and not self._whole:
            return self._ask(self._engines[0], unit)
        first = self._places[unit]
        ahead = len(self._units) if self._whole else _AHEAD * len(self._engines)
        last = min(first + ahead, len(self._units))
        for place in range(first, last):
            if place not in self._answers:
                replica = place % len(self._engines)
                self._answers[place] = self._threads[replica].submit(
                    self._ask, self._engines[replica], self._units[place]
                )
        if self._whole:
            wait(self._answers.values())
        return self._answers[first].result()

    def close(self) -> None:
        """Ask for nothing more, and wait for what is being answered."""
        for thread in self._threads:
            thread.shutdown(cancel_futures=True)
