"""Random operations in any order, checked after each: Hypothesis's state machines, derandomized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


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
    run_state_machine_as_test(
        type(machine.__name__, (machine,), dict(members)),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
