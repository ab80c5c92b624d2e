"""A judge's terms as plain data: with them and the samples, anybody can judge again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..metrics.budget import Budget
from ..metrics.metric import Metric, Rule, Unit
from .gate_judge import GateJudge

_PLAIN = (
    "alpha_pass",
    "alpha_fail",
    "planned",
    "samples",
    "identical_outputs_pass",
    "every_metric",
    "undecided_passes",
    "population",
)


def terms_of(judge: GateJudge) -> dict[str, Any]:
    """All that the judge was made of. Metrics are written out, so that reading takes no gate."""
    return {
        "metrics": [asdict(metric) for metric in judge.metrics],
        "budgets": {
            name: {"limit": budget.limit, "origin": budget.origin}
            for name, budget in judge.budgets.items()
        },
        **{name: getattr(judge, name) for name in _PLAIN},
    }


def judge_of(terms: Mapping[str, Any]) -> GateJudge:
    """A new judge on the same terms. Raises KeyError, TypeError or ValueError for other data."""
    metrics = [
        Metric(**{**row, "unit": Unit(row["unit"]), "rule": Rule(row["rule"])})
        for row in terms["metrics"]
    ]
    by_name = {metric.name: metric for metric in metrics}
    budgets = {
        name: Budget(by_name[name], row["limit"], origin=row["origin"])
        for name, row in terms["budgets"].items()
    }
    return GateJudge(metrics, budgets, **{k: terms[k] for k in _PLAIN if k in terms})
