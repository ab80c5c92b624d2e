"""The limits of a candidate for which nobody wrote any."""

from pytest_infopt.configuration.budget_resolver import BudgetResolver
from pytest_infopt.configuration.schema import release_file_model
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.release import ModelSource


def default_budgets(candidate: ModelSource, reference: ModelSource) -> dict[str, Budget]:
    resolver = BudgetResolver(release_file_model()(), None, ())
    return resolver.of_candidate(candidate, reference, {}, served=False)
