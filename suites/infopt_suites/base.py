"""What every conformance suite shares: tests that cannot be replaced, capabilities, exceptions.

A suite is a class of property tests. An implementer subclasses it in a test module, gives the
factory fixture that it asks for, and says in data what the implementation offers:

    class TestMine(QuantizerSuite):
        capabilities = {"codes"}                                    # claimed, therefore tested
        expected_failures = {"test_zero_decodes_to_zero": "#812"}   # strict: must really fail
        @pytest.fixture
        def make_quantizer(self): return MyQuantizer

What is checked when such a class is made, with `TypeError`: no suite test is replaced, by the class
or by a mixin; claimed capabilities and expected failures exist.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, TypeGuard, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])
REQUIRES = "infopt_requires"  # the marker of a test that needs capabilities
NOT_OFFERED = "not offered"  # how the reason of a test that nobody claimed begins


class Suite:
    """Base of all suites.

    ``topic`` is the suite's key in ``[implementations]`` of infopt.toml, and ``offers`` says of
    each capability what it promises; both are the suite's. ``capabilities`` and
    ``expected_failures`` (test name → reason) are the implementer's.
    """

    infopt_suite: ClassVar[bool] = True  # by which the plugin knows the tests of suites
    topic: ClassVar[str] = ""
    offers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    capabilities: ClassVar[Collection[str]] = frozenset()
    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _refuse_replaced_tests(cls)
        check_claims(cls, cls.capabilities, cls.expected_failures)

    @classmethod
    def claims(cls, item: pytest.Item) -> tuple[Collection[str], Mapping[str, str]]:
        """Capabilities and expected failures that hold for a collected test."""
        return cls.capabilities, cls.expected_failures

    @classmethod
    def prepare(cls, item: pytest.Item) -> None:
        """Mark a collected test by what is claimed; the plugin calls this at collection."""
        capabilities, expected_failures = cls.claims(item)
        name = getattr(item, "originalname", item.name)
        for marker in item.iter_markers(REQUIRES):
            missing = [word for word in marker.args if word not in capabilities]
            if missing:
                meaning = "; ".join(f"{word}: {cls.offers[word]}" for word in missing)
                item.add_marker(pytest.mark.skip(reason=f"{NOT_OFFERED}: {meaning}"))
        if name in expected_failures:
            reason = expected_failures[name]
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    def missing_fixture(self, name: str, returns: str) -> NoReturn:
        """Fail with what a suite cannot do without: the body of a fixture that must be given."""
        pytest.fail(
            f"{type(self).__name__} is a {_suite_of(type(self)).__name__} and has no fixture "
            f"{name!r}; define one that returns {returns}",
            pytrace=False,
        )


def requires(*capabilities: str) -> Callable[[Test], Test]:
    """A test that runs only where the implementation claims these capabilities."""

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.infopt_requires(*capabilities)(test)
        return marked

    return mark


def suite_tests(suite: type[Suite]) -> dict[str, type[Suite]]:
    """The property tests of a suite: their names, and the suite class that defines each."""
    return {
        name: base
        for base in suite.__mro__
        if _is_suite(base)
        for name in vars(base)
        if name.startswith("test_")
    }


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


def _suite_of(cls: type) -> type:
    return next((base for base in cls.__mro__ if _is_suite(base)), cls)


def _unknown(suite: type, what: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{suite.__name__} knows no {what} {name!r}{hint} (known: {', '.join(names) or 'none'})"
