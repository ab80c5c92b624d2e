"""The limits of a candidate for which nobody wrote any."""

from pytest_infopt.engines.files.size import parameters_of
from pytest_infopt.engines.weight_precision import precision_of
from pytest_infopt.gates.limits import candidate_limits
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.release import ModelSource


def default_budgets(candidate: ModelSource, reference: ModelSource) -> dict[str, Budget]:
    precision = precision_of(candidate, reference)
    parameters = parameters_of(reference)
    return candidate_limits(
        (), candidate, reference, precision, {}, served=False, drafted=False, parameters=parameters
    )
