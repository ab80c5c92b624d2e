"""What every suite shares: properties that cannot be replaced, capabilities, exceptions.

A suite is a class of properties: tests of one technique. An implementer subclasses it in a test
module, gives the fixture that it asks for, and says in data what the implementation offers:

    class TestMine(QuantizerSuite):
        capabilities = {"codes"}                                    # claimed, therefore tested
        expected_failures = {"test_zero_decodes_to_zero": "#812"}   # strict: must really fail
        @pytest.fixture
        def make_quantizer(self): return MyQuantizer

Making such a class raises `TypeError` where it, or a mixin, replaces a property, and where it
claims a capability or an expected failure that the suite does not know. Where infopt.toml names an
implementation under ``[implementations]``, the plugin makes the class: `Suite.made_for`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, Self, TypeGuard, TypeVar

import pytest

from pytest_infopt.naming import nearest

Test = TypeVar("Test", bound=Callable[..., Any])
REQUIRES = "infopt_requires"  # the marker of a property that needs capabilities


class Suite:
    """Base of all suites.

    A suite gives ``topic``, its key in ``[implementations]`` of infopt.toml and its entry point's
    name; ``fixture``, the name of the fixture that hands it the implementation, with
    ``fixture_returns``, what that is; and ``offers``, what each capability promises. An implementer
    gives ``capabilities`` and ``expected_failures`` (test name → reason).
    """

    infopt_suite: ClassVar[bool] = True  # by which the plugin knows the classes of suites
    topic: ClassVar[str] = ""
    fixture: ClassVar[str] = ""
    fixture_returns: ClassVar[str] = ""
    offers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    capabilities: ClassVar[Collection[str]] = frozenset()
    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _refuse_replaced_tests(cls)
        check_claims(cls, cls.capabilities, cls.expected_failures)
        if cls.fixture and not hasattr(cls, cls.fixture):
            setattr(cls, cls.fixture, pytest.fixture(name=cls.fixture)(_missing_fixture))

    @classmethod
    def made_for(cls, name: str, implementation: Any) -> type[Self]:
        """The class that is collected for an implementation that infopt.toml names.

        What a subclass says with class attributes (``capabilities``, ``expected_failures``,
        ``schemes`` and whatever else the suite declares) are here attributes of the implementation.
        Raises TypeError, as a subclass does, where it claims what the suite does not know.
        """
        members = {
            attribute: getattr(implementation, attribute)
            for attribute in implementer_attributes(cls)
            if hasattr(implementation, attribute)
        }
        members[cls.fixture] = pytest.fixture(name=cls.fixture)(lambda self: implementation)
        made: type[Self] = type(name, (cls,), {**members, "__module__": cls.__module__})
        return made

    @classmethod
    def not_claimed(cls, item: pytest.Item) -> list[str]:
        """The capabilities that a collected test needs and the implementation does not claim."""
        needed = [word for marker in item.iter_markers(REQUIRES) for word in marker.args]
        return [word for word in needed if word not in cls.capabilities]


def requires(*capabilities: str) -> Callable[[Test], Test]:
    """A property that is tried only where the implementation claims these capabilities."""

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.infopt_requires(*capabilities)(test)
        return marked

    return mark


def suite_tests(suite: type[Suite]) -> dict[str, type[Suite]]:
    """The properties of a suite: their names, and the suite class that defines each."""
    return {
        name: base
        for base in suite.__mro__
        if _is_suite(base)
        for name in vars(base)
        if name.startswith("test_")
    }


def implementer_attributes(suite: type[Suite]) -> list[str]:
    """The class attributes of a suite that an implementer may set."""
    return ["capabilities", "expected_failures"] + [
        name
        for base in suite.__mro__
        if issubclass(base, Suite) and base is not Suite
        for name in inspect.get_annotations(base)
        if name not in inspect.get_annotations(Suite)
    ]


def check_claims(
    suite: type[Suite], capabilities: Collection[str], expected_failures: Iterable[str]
) -> None:
    """Raise TypeError for a capability or an expected failure that the suite does not know."""
    for word in capabilities:
        if word not in suite.offers:
            raise TypeError(_unknown(suite, "capability", word, suite.offers))
    tests = [name for name in dir(suite) if name.startswith("test_")]
    for name in expected_failures:
        if name not in tests:
            raise TypeError(_unknown(suite, "expected failure", name, tests))


def _refuse_replaced_tests(cls: type[Suite]) -> None:
    for name, owner in suite_tests(cls).items():
        if next(base for base in cls.__mro__ if name in vars(base)) is not owner:
            raise TypeError(
                f"{cls.__name__} replaces {name}, a test of {owner.__name__}; name it in "
                "expected_failures with a reason, or give up the capability that it needs"
            )


def _is_suite(cls: type) -> TypeGuard[type[Suite]]:
    """A suite itself, and no implementer's subclass of one."""
    return issubclass(cls, Suite) and "topic" in vars(cls)


def _unknown(suite: type, what: str, name: str, known: Iterable[str]) -> str:
    return f"{suite.__name__} knows no {what} {name!r}{nearest(name, sorted(known))}"


def _missing_fixture(self: Suite) -> NoReturn:
    """The body of a fixture that the implementer has to give, and has not given."""
    suite = next(base for base in type(self).__mro__ if _is_suite(base))
    pytest.fail(
        f"{type(self).__name__} is a {suite.__name__} and has no fixture {self.fixture!r}; "
        f"define one that returns {self.fixture_returns}",
        pytrace=False,
    )
