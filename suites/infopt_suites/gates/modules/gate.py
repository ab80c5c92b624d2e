"""Modules: each of the candidate's, fed what the reference's was fed; a faulty one is named."""

from dataclasses import dataclass

from pytest_infopt import (
    BudgetContext,
    Capability,
    Cause,
    GateSpec,
    Metric,
    Plan,
    Release,
    Rule,
    Unit,
    setting,
)

ACCUSED = Metric(
    "accused_modules",
    Unit.COUNT,
    Rule.EXACT,
    "modules whose output on the reference's input errs more than their siblings, their number "
    "format and their dtype explain",
)
CONSTANTS = Metric(
    "constants_differing",
    Unit.COUNT,
    Rule.EXACT,
    "buffers and numbers of modules that differ by more than their dtype's rounding",
)


@dataclass(frozen=True)
class ModulesPlan(Plan):
    """The batch that modules are compared on, and the declared rate of false accusations."""

    rows: int = setting(5, "Texts of the batch; the first is shorter, so that it is padded.", ge=2)
    tokens: int = setting(56, "Length of the batch.", ge=4)
    false_accusations: float = setting(
        0.001, "Probability that a sound candidate has a module accused.", gt=0, lt=0.5
    )


def _documents(release: Release) -> int:
    return release.plan(ModulesPlan).rows


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """In any number format, each module does its work."""
    return {ACCUSED.name: 0.0, CONSTANTS.name: 0.0}


GATE = GateSpec(
    package=__package__,
    name="modules",
    summary="Each module of the candidate does what the reference's does; a faulty one is named.",
    order=35,
    samples="passes",
    plans=(ModulesPlan,),
    requires=frozenset({Capability.FULL_LOGITS, Capability.MODULES}),
    default_budgets=default_budgets,
    fewest_documents=_documents,
    causes=dict.fromkeys((ACCUSED.name, CONSTANTS.name), Cause.WEIGHTS),
    metrics=(
        ACCUSED,
        CONSTANTS,
        Metric(
            "largest_slope_change",
            Unit.NUMBER,
            Rule.EXACT,
            "largest |factor between a module's outputs and the reference's − 1|",
        ),
        Metric(
            "largest_module_error",
            Unit.RATIO,
            Rule.EXACT,
            "largest error of a module's output / its siblings' median",
        ),
    ),
)
