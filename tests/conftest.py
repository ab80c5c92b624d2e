"""What every folder of tests needs."""

# pytester forgets modules that a run inside this process is the first to import, and the next run
# would meet second copies of them.
import infopt_suites.gates  # noqa: F401
from hypothesis import settings

import pytest_infopt.run.hooks  # noqa: F401

# Nothing here asserts on wall-clock time, an example's neither: the machine may be busy. What else
# the profile in force says (on CI: no random examples) stays.
settings.register_profile("unhurried", parent=settings(), deadline=None)
settings.load_profile("unhurried")

pytest_plugins = ["pytester", "kill_summary"]
