"""Release gates for optimised LLM inference, as a pytest plugin.

``pytest --infopt`` compares candidate models with a reference and says PASS, FAIL or INCONCLUSIVE.
What is named here is the public interface for gates, engines, reports and suites of one's own; it
is imported when it is used, because every pytest run imports this package.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

from .version import __version__

if TYPE_CHECKING:
    from .axes.answers import Answer
    from .axes.assertion import Equivalence, assert_equivalent
    from .axes.model_identity import SameModel, assert_same_model
    from .axes.sides import Side
    from .engines.base import Capability, Engine
    from .gates.base import BudgetContext, Cause, GateSpec
    from .gates.plan import Plan, one_of, rising, setting
    from .metrics.budget import Budget
    from .metrics.metric import TAIL, Metric, Rule, Unit, quantiles
    from .process.model_pair import ModelPair
    from .process.remote import remote
    from .release import Candidate, Draft, ModelSource, Release, ServerSource, Statistics
    from .results.gate_result import GateResult
    from .results.measured_table import MeasuredTable, Plot
    from .results.run_result import RunResult
    from .results.sample import Sample, TokenFinding
    from .results.verdict import Judgement, Verdict
    from .run.gate_run import GateRun

# Before anything imports them: gate and suite modules assert, and their users must see the values.
pytest.register_assert_rewrite("infopt_suites")

_MODULES = {
    ".axes.answers": ("Answer",),
    ".axes.assertion": ("Equivalence", "assert_equivalent"),
    ".axes.model_identity": ("SameModel", "assert_same_model"),
    ".axes.sides": ("Side",),
    ".engines.base": ("Capability", "Engine"),
    ".gates.base": ("BudgetContext", "Cause", "GateSpec"),
    ".gates.plan": ("Plan", "one_of", "rising", "setting"),
    ".metrics.budget": ("Budget",),
    ".metrics.metric": ("TAIL", "Metric", "Rule", "Unit", "quantiles"),
    ".process.model_pair": ("ModelPair",),
    ".process.remote": ("remote",),
    ".release": ("Candidate", "Draft", "ModelSource", "Release", "ServerSource", "Statistics"),
    ".results.gate_result": ("GateResult",),
    ".results.measured_table": ("MeasuredTable", "Plot"),
    ".results.run_result": ("RunResult",),
    ".results.sample": ("Sample", "TokenFinding"),
    ".results.verdict": ("Judgement", "Verdict"),
    ".run.gate_run": ("GateRun",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "TAIL",
    "Answer",
    "Budget",
    "BudgetContext",
    "Candidate",
    "Capability",
    "Cause",
    "Draft",
    "Engine",
    "Equivalence",
    "GateResult",
    "GateRun",
    "GateSpec",
    "Judgement",
    "MeasuredTable",
    "Metric",
    "ModelPair",
    "ModelSource",
    "Plan",
    "Plot",
    "Release",
    "Rule",
    "RunResult",
    "SameModel",
    "Sample",
    "ServerSource",
    "Side",
    "Statistics",
    "TokenFinding",
    "Unit",
    "Verdict",
    "__version__",
    "assert_equivalent",
    "assert_same_model",
    "one_of",
    "quantiles",
    "remote",
    "rising",
    "setting",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)
