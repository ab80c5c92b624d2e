"""Release gates for optimised LLM inference, as a pytest plugin.

``pytest --infopt`` compares candidate models with a reference and says PASS, FAIL or INCONCLUSIVE.
"""

import pytest

# Before anything imports them: gate and suite modules assert, and their users must see the values.
pytest.register_assert_rewrite("infopt_suites")

__version__ = "0.1.0"
__all__ = ["__version__"]
