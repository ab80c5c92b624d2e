"""Python's clocks on virtual time, for libraries that ask `time` and not the event loop.

Within `virtual_time`, `time.time`, `time.monotonic` and `time.perf_counter` (and what gives the
same in nanoseconds) follow the virtual loop, also where a module has imported them by name, and
`time.sleep` lets virtual time pass. This holds in the loop's own thread, and in others while they
run what `on_virtual_time` made; otherwise these see the real ones.
`datetime.now` is written in C and stays real.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
# The calendar time at which a run begins, on every machine: of today's size, so that float64 rounds
# it as usual, and "0.0 stands for never" works.
EPOCH = 1_800_000_000
NANO = 1_000_000_000
# Modules of Python itself wait for real; those of Hypothesis and pytest measure for real.
_REAL = frozenset({*sys.stdlib_module_names, "_pytest", "hypothesis", "pytest", "xdist"})


@dataclass(frozen=True)
class _Run:
    """Whose time it is: some threads, what the loop's clock shows, and how time passes on it."""

    threads: set[int]
    now: Callable[[], float]
    sleep: Callable[[float], None]
    calendar: Callable[[], float]  # seconds since 1970


_run: _Run | None = None  # of the innermost `virtual_time`
_VIRTUAL: dict[str, Callable[[_Run], float]] = {
    "time": lambda run: run.calendar(),
    "monotonic": lambda run: run.now(),
    "perf_counter": lambda run: run.now(),
    "time_ns": lambda run: EPOCH * NANO + round((run.calendar() - EPOCH) * NANO),
    "monotonic_ns": lambda run: round(run.now() * NANO),
    "perf_counter_ns": lambda run: round(run.now() * NANO),
}


def _clock(real: Callable[[], Any], virtual: Callable[[_Run], Any]) -> Callable[[], Any]:
    def read() -> Any:
        run = _run
        return real() if run is None or get_ident() not in run.threads else virtual(run)

    return read


def _sleep(real: Callable[[float], None]) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        run = _run
        if run is None or get_ident() not in run.threads or not seconds >= 0:
            real(seconds)
        else:
            run.sleep(seconds)

    return sleep


# By the identity of the real function, which modules may have under any name.
_REPLACED = {
    id(getattr(time, name)): (getattr(time, name), _clock(getattr(time, name), virtual))
    for name, virtual in _VIRTUAL.items()
} | {id(time.sleep): (time.sleep, _sleep(time.sleep))}
_searched: dict[str, ModuleType] = {}
_places: list[tuple[ModuleType, str, Any, Any]] = [
    (time, name, *_REPLACED[id(value)])
    for name, value in vars(time).items()
    if id(value) in _REPLACED
]


@contextmanager
def virtual_time(
    now: Callable[[], float],
    sleep: Callable[[float], None],
    calendar: Callable[[], float] | None = None,
) -> Iterator[None]:
    """In this thread, clocks show what ``now`` says, and `time.sleep` calls ``sleep``.

    ``calendar`` gives the seconds since 1970; without one, the calendar goes as the others do.
    """
    global _run
    _search_modules()
    outer = _run
    _run = _Run({get_ident()}, now, sleep, calendar or (lambda: EPOCH + now()))
    try:
        for module, name, real, replacement in _places:
            if getattr(module, name, None) is real:
                setattr(module, name, replacement)
        yield
    finally:
        _run = outer
        if outer is None:
            for module, name, real, replacement in _places:
                if getattr(module, name, None) is replacement:
                    setattr(module, name, real)


def on_virtual_time(call: Callable[P, T]) -> Callable[P, T]:
    """The same call for another thread, whose clocks meanwhile show the innermost virtual time."""

    def called(*arguments: P.args, **options: P.kwargs) -> T:
        run, thread = _run, get_ident()
        if run is None or thread in run.threads:
            return call(*arguments, **options)
        run.threads.add(thread)
        try:
            return call(*arguments, **options)
        finally:
            run.threads.discard(thread)

    return called


def _search_modules() -> None:
    """Look into the modules that were imported since the last time."""
    if len(sys.modules) == len(_searched):
        return
    for key, module in list(sys.modules.items()):
        if _searched.get(key) is module:
            continue
        _searched[key] = module
        if key.partition(".")[0] in _REAL or not isinstance(module, ModuleType):
            continue
        for name, value in list(vars(module).items()):
            if id(value) in _REPLACED:
                _places.append((module, name, *_REPLACED[id(value)]))
