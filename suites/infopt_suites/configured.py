"""Door 2: a suite's class, made anew for each implementation that ``[implementations]`` names.

A shipped gate, ``gates/test_gate_conformance_TOPIC.py``, holds one class, which says through which
fixture the suite gets its implementation:

    class TestSorter(Configured, SorterSuite):
        @pytest.fixture
        def make_sorter(self): return self.implementation

The plugin collects no such class itself, but one subclass of it for each implementation.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, Self

from .base import Suite

_THE_SUITES_OWN = frozenset(inspect.get_annotations(Suite)) - {"capabilities", "expected_failures"}


class Configured(Suite):
    """Base of the shipped gates' classes; ``implementation`` is what infopt.toml names."""

    __test__ = False
    implementation: ClassVar[Any] = None

    @classmethod
    def made_for(cls, name: str, implementation: Any) -> type[Self]:
        """The class that is collected for an implementation.

        What door 1 says with class attributes (``capabilities``, ``expected_failures``, ``schemes``
        and whatever else the suite declares) are here attributes of the implementation. Raises
        TypeError, as door 1 does, where it claims what the suite does not know.
        """
        said = {
            attribute: getattr(implementation, attribute)
            for attribute in implementer_attributes(cls)
            if hasattr(implementation, attribute)
        }
        # Without staticmethod, a function would become a method of the suite.
        said |= {"implementation": staticmethod(implementation), "__test__": True}
        made: type[Self] = type(name, (cls,), {**said, "__module__": cls.__module__})
        return made


def implementer_attributes(suite: type[Suite]) -> list[str]:
    """The class attributes of a suite that an implementer may set."""
    return [
        name
        for base in suite.__mro__
        if issubclass(base, Suite) and base is not Configured
        for name in inspect.get_annotations(base)
        if name not in _THE_SUITES_OWN
    ]
