"""Random operations in any order, checked after each: Hypothesis's state machines, derandomized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from .properties import SEARCH, ended_search
from .tally import tally


def run_machine(
    machine: type[RuleBasedStateMachine], members: Mapping[str, Any], *, examples: int, steps: int
) -> None:
    """Raise the error of the shortest sequence of operations that breaks an invariant.

    Args:
        machine: its rules and invariants.
        members: class attributes that it takes from the suite, such as a factory.
        examples: how many sequences are tried.
        steps: operations in each.
    """
    __tracebackhide__ = True
    found = tally()
    found.begin()

    class Counted(machine):  # type: ignore[valid-type,misc]  # any machine of a suite
        def __init__(self) -> None:
            found.draw()
            super().__init__()

    with ended_search():
        run_state_machine_as_test(
            type(machine.__name__, (Counted,), dict(members)),
            settings=settings(SEARCH, max_examples=examples, stateful_step_count=steps),
        )
