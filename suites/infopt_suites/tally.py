"""How many cases a property tries, and of what kinds: a property that tried none has not passed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

Case = TypeVar("Case")


@dataclass
class Tally:
    """The cases of one run of a property.

    ``drawn`` counts those of `properties.for_all`, of `machines.run_machine` and of `each_case`;
    None where the property called none of them, and is one case by itself. ``held`` counts those
    that reached the body of a property made by `properties.tried`, and decides where it is set.
    ``kinds`` are words on the inputs, by topic: {"dtype": {"float32": …}}, in order of appearance.
    """

    drawn: int | None = None
    held: int | None = None
    kinds: dict[str, dict[str, None]] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """How many cases were tried."""
        if self.held is not None:
            return self.held
        return 1 if self.drawn is None else self.drawn

    def begin(self) -> None:
        """From now on only what is counted has been tried."""
        self.drawn = self.drawn or 0

    def draw(self) -> None:
        """Count a case."""
        self.drawn = (self.drawn or 0) + 1


_CURRENT: ContextVar[Tally | None] = ContextVar("infopt_tally", default=None)


def tally() -> Tally:
    """That of the property that is being tried; one that nobody reads, outside of any."""
    return _CURRENT.get() or Tally()


@contextmanager
def counting() -> Iterator[Tally]:
    """Count the cases of one run of a property."""
    found = Tally()
    token = _CURRENT.set(found)
    try:
        yield found
    finally:
        _CURRENT.reset(token)


def each_case(cases: Iterable[Case]) -> Iterator[Case]:
    """The cases, counted: for a property that goes through a list of its own."""
    found = tally()
    found.begin()
    for case in cases:
        found.draw()
        yield case


def leave_out() -> None:
    """The case at hand turned out to be none of the property's: it does not count."""
    found = tally()
    if found.held is not None:
        found.held -= 1
    else:
        found.drawn = max((found.drawn or 0) - 1, 0)


def note_kinds(**kinds: object) -> None:
    """Record of what kinds the case at hand is, such as ``dtype="float16", group="64"``."""
    found = tally()
    for topic, kind in kinds.items():
        found.kinds.setdefault(topic, {})[str(kind)] = None
