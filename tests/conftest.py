"""What every folder of tests needs."""

# pytester forgets modules that a run inside this process is the first to import, and the next run
# would meet second copies of them.
import infopt_suites.gates  # noqa: F401

import pytest_infopt.hooks  # noqa: F401

pytest_plugins = ["pytester", "kill_summary"]
