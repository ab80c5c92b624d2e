"""Trying a property: on inputs that Hypothesis draws and shrinks, then on named traps.

Every search is derandomized: the same implementation gets the same inputs on every machine, so a
suite neither flickers nor needs luck. Traps are inputs on which real libraries have failed; they
are tried whatever Hypothesis draws.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from inspect import Parameter, Signature
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.strategies import SearchStrategy

from .tally import tally

Case = TypeVar("Case")

Decorator = Callable[[Callable[..., Any]], Callable[..., None]]

# Health checks speak of slow or large inputs, which weights are.
SEARCH = settings(
    derandomize=True,
    database=None,
    deadline=None,
    print_blob=False,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
EXAMPLES = 40  # drawn inputs for each property; a suite may want more or fewer


class FinalError(AssertionError):
    """A property is broken on every case, or tells it after long: no smaller one is looked for."""


class EndedSearch(KeyboardInterrupt):
    """Ends a search of Hypothesis, which takes this for the user's wish."""

    def __init__(self, error: FinalError) -> None:
        super().__init__()
        self.error = error


@contextmanager
def ending_search() -> Iterator[None]:
    """Within a search: let FinalError end it."""
    __tracebackhide__ = True
    try:
        yield
    except FinalError as error:
        raise EndedSearch(error) from None


@contextmanager
def ended_search() -> Iterator[None]:
    """Around a search: raise the FinalError that has ended it."""
    __tracebackhide__ = True
    try:
        yield
    except EndedSearch as ended:
        raise ended.error from None


def for_all(
    holds: Callable[[Case], None],
    cases: SearchStrategy[Case],
    *,
    traps: Iterable[tuple[str, Case]] = (),
    examples: int = EXAMPLES,
) -> None:
    """Try a property: call ``holds`` with drawn cases, then with the traps.

    Raises its AssertionError on the smallest drawn case, or the first trap, that breaks it.
    ``traps`` are pairs of a name, which tells what the input brings out, and the input.
    """
    __tracebackhide__ = True
    found = tally()
    found.begin()

    def counted(case: Case) -> None:
        __tracebackhide__ = True
        found.draw()
        holds(case)

    _search(counted, cases, examples)
    for name, case in traps:
        with noted(f"on the trap {name!r}: {case!r}"):
            counted(case)


def tried(fixture: str, by: str = "_hold") -> Callable[..., Decorator]:
    """A decorator of properties that say what holds of one case: ``test_…(self, case)``.

    With ``on_each = tried("make_cache")``, ``@on_each(*arguments, **options)`` makes such a method
    a test with that fixture, which calls the suite's method ``by(fixture's value, holds,
    *arguments, **options)``. That has to call ``holds`` with every case. ``each``: values of the
    property's further arguments, by name; it is tried with all their combinations, and an error
    names the one that raised it.
    """

    def decorator(
        *arguments: Any, each: Mapping[str, Iterable[Any]] | None = None, **options: Any
    ) -> Decorator:
        values = each or {}
        combinations = [
            dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
        ]

        def decorate(holds: Callable[..., Any]) -> Callable[..., None]:
            @functools.wraps(holds)
            def test(self: Any, **given: Any) -> None:
                __tracebackhide__ = True
                found = tally()
                found.held = 0

                def held(*case: Any, **chosen: Any) -> Any:
                    __tracebackhide__ = True
                    found.held = (found.held or 0) + 1
                    return holds(self, *case, **chosen)

                for chosen in combinations:
                    bound = functools.partial(held, **chosen)
                    with noted(_named(chosen)):
                        getattr(self, by)(given[fixture], bound, *arguments, **options)

            names = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", fixture)]
            test.__signature__ = Signature(names)  # type: ignore[attr-defined]  # pytest reads it
            return test

        return decorate

    return decorator


@contextmanager
def noted(note: str) -> Iterator[None]:
    """Add a note, if it says anything, to what is raised: on which input it happened."""
    __tracebackhide__ = True
    try:
        yield
    except Exception as error:
        if note:
            error.add_note(note)
        raise


def _named(chosen: Mapping[str, Any]) -> str:
    """Chosen values in words; classes and functions by their names."""
    shown = {name: getattr(value, "__name__", repr(value)) for name, value in chosen.items()}
    return "with " + ", ".join(f"{n} = {value}" for n, value in shown.items()) if shown else ""


def _search(holds: Callable[[Any], None], cases: SearchStrategy[Any], examples: int) -> None:
    __tracebackhide__ = True

    # It would print cases field by field; their repr says more.
    @settings(SEARCH, max_examples=examples, verbosity=Verbosity.quiet)
    @given(case=cases)
    def tried(case: Any) -> None:
        __tracebackhide__ = True
        with ending_search(), noted(f"smallest case found: {case!r}"):
            holds(case)

    with ended_search():
        tried()
