"""What every folder of tests needs."""

from collections.abc import Iterator

# pytester forgets modules that a run inside this process is the first to import, and the next run
# would meet second copies of them.
import infopt_suites.gates  # noqa: F401
import pytest
from hypothesis import Phase, settings
from infopt_suites import machines, properties

import pytest_infopt.run.hooks  # noqa: F401

# Nothing here asserts on wall-clock time, an example's neither: the machine may be busy. What else
# the profile in force says (on CI: no random examples) stays.
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.load_profile("unhurried")

pytest_plugins = ["pytester", "kill_summary"]


@pytest.fixture(autouse=True)
def first_case_found(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a property has to fail, any case will do: looking for a smaller one takes longer than
    all else."""
    with pytest.MonkeyPatch.context() as patch:
        if "mutants" in request.path.parts or request.node.get_closest_marker("xfail"):
            search = settings(properties.SEARCH, phases=[Phase.generate])
            patch.setattr(properties, "SEARCH", search)
            patch.setattr(machines, "SEARCH", search)
        yield
