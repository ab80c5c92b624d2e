"""Limits on bytes that were written as a share of the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from pytest_infopt import Budget


def against_reference(
    budgets: Mapping[str, Budget], reference: Mapping[str, float]
) -> dict[str, Budget]:
    """The limits in bytes, by what the reference's values are."""
    return {
        name: replace(budget, limit=budget.limit * reference[name], relative=False)
        if budget.relative and name in reference
        else budget
        for name, budget in budgets.items()
    }
