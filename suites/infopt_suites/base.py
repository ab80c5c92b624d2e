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

import functools
import inspect
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, Self, TypeGuard, TypeVar

import pytest

from pytest_infopt.conformance import NOTHING_TO_TRY, UNUSABLE
from pytest_infopt.naming import nearest

from .tally import Tally, counting

Test = TypeVar("Test", bound=Callable[..., Any])
REQUIRES = "infopt_requires"  # the marker of a property that needs capabilities


_WORDS = ("capabilities", "expected_failures")  # what every implementer says


class Suite:
    """Base of all suites.

    A suite gives ``topic``, its key in ``[implementations]`` of infopt.toml and its entry point's
    name; ``fixture``, the name of the fixture that hands it the implementation, with
    ``fixture_returns``, what that is; and ``offers``, what each capability promises. It may give
    ``demands``, sets of capabilities of each of which one has to be claimed, because no case is
    tried without it; and ``methods``, those that an implementation has, by the capability that
    asks for them ("" for all implementations). An implementer gives ``capabilities`` and
    ``expected_failures`` (test name → reason).

    A property that tried no case does not pass: it is skipped, and says what it depends on.
    """

    infopt_suite: ClassVar[bool] = True  # by which the plugin knows the classes of suites
    topic: ClassVar[str] = ""
    fixture: ClassVar[str] = ""
    fixture_returns: ClassVar[str] = ""
    offers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    demands: ClassVar[Sequence[Collection[str]]] = ()
    methods: ClassVar[Mapping[str, Collection[str]]] = MappingProxyType({})
    capabilities: ClassVar[Collection[str]] = frozenset()
    expected_failures: ClassVar[Mapping[str, str]] = MappingProxyType({})
    _fault: ClassVar[str | None] = None
    infopt_tally: Tally  # of the property that was tried last

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        _refuse_replaced_tests(cls)
        check_claims(cls, cls.capabilities, cls.expected_failures)
        if _is_suite(cls):
            _count_cases(cls)
        if cls.fixture and not hasattr(cls, cls.fixture):
            setattr(cls, cls.fixture, pytest.fixture(name=cls.fixture)(_missing_fixture))

    @classmethod
    def made_for(cls, name: str, implementation: Any) -> type[Self]:
        """The class that is collected for an implementation that infopt.toml names.

        What a subclass says with class attributes (``capabilities``, ``expected_failures``,
        ``schemes`` and whatever else the suite declares) are here attributes of the implementation.
        Raises TypeError, as a subclass does, where it claims what the suite does not know, and
        where it declares too little for anything to be tried.
        """
        members = {
            attribute: getattr(implementation, attribute)
            for attribute in implementer_attributes(cls)
            if hasattr(implementation, attribute)
        }
        members[cls.fixture] = pytest.fixture(name=cls.fixture)(lambda self: implementation)
        made: type[Self] = type(name, (cls,), {**members, "__module__": cls.__module__})
        made.check_declaration()
        return made

    @classmethod
    def check_declaration(cls) -> None:
        """Raise TypeError where what the class declares leaves nothing to try."""
        for words in cls.demands:
            if not {*words} & {*cls.capabilities}:
                meanings = "; ".join(f"{word!r}: {cls.offers[word]}" for word in words)
                raise TypeError(f"claim one of these capabilities, or nothing is tried: {meanings}")
        for name in implementer_attributes(cls):
            value, default = getattr(cls, name, None), getattr(_suite_of(cls), name, None)
            if default and isinstance(value, Collection) and not value:
                raise TypeError(
                    f"{name} is empty, so nothing is tried; the default: {_brief(default)}"
                )

    def implementation_in(self, fixtures: Mapping[str, Any]) -> Any:
        """The implementation, among the fixtures that a property takes."""
        return fixtures.get(self.fixture)

    def made_from(self, implementation: Any) -> Any:
        """What has the ``methods``: the implementation, or what a factory makes."""
        return implementation

    def first_cases(self, implementation: Any) -> Iterable[tuple[str, Callable[[], object]]]:
        """What an implementation must get through before properties begin: words, and a call.

        One plain input of each declared kind, so that a kind that is always refused is said once.
        """
        return ()

    def check_implementation(self, implementation: Any) -> None:
        """Raise TypeError, in one sentence, where properties could not even begin."""
        what = f"{self.fixture} has to give {self.fixture_returns}"
        if self.fixture.startswith("make_") and not callable(implementation):
            raise TypeError(f"{what}, not {_article(implementation)}")
        if implementation is None:
            raise TypeError(f"{what}, not None")
        try:
            made = self.made_from(implementation)
        except Exception as error:
            raise TypeError(f"{what}; calling it raised {_told(error)}") from error
        for word in ("", *sorted(self.capabilities)):
            missing = [name for name in self.methods.get(word, ()) if not _has(made, name)]
            if missing:
                claimed = f" under the capability {word!r}" if word else ""
                raise TypeError(f"{_article(made)} has no {', '.join(missing)}, needed{claimed}")
        for what, attempt in self.first_cases(implementation):
            try:
                attempt()
            except Exception as error:
                raise TypeError(f"{what} raised {_told(error)}. {self.what_decides()}") from error

    def _precheck(self, implementation: Any) -> None:
        """Say once, before anything is tried, that an implementation cannot be."""
        cls = type(self)
        if "_fault" in vars(cls):
            if cls._fault is not None:
                pytest.skip(f"{UNUSABLE}: {cls._fault}")
            return
        try:
            self.check_declaration()
            self.check_implementation(implementation)
        except TypeError as error:
            cls._fault = f"{cls.__name__}: {error}"
        else:
            cls._fault = None
        if cls._fault is not None:
            pytest.fail(cls._fault, pytrace=False)

    @classmethod
    def what_decides(cls) -> str:
        """What an implementer declares, on which depends what is tried, in a sentence or two."""
        suite = _suite_of(cls)
        words = ", ".join(sorted(cls.capabilities)) or "none"
        told = f"An implementation that is not meant to take such a case says so. Claimed: {words}."
        names = [name for name in implementer_attributes(cls) if name not in _WORDS]
        if names:
            values = "; ".join(f"{name} = {_brief(getattr(cls, name, None))}" for name in names)
            told += f" Declared: {values}."
        return f"{told} The docstring of {suite.__name__} says what each means."

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
    return [*_WORDS] + [
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


def _count_cases(suite: type[Suite]) -> None:
    """Make each property that a suite defines count its cases."""
    for name, test in list(vars(suite).items()):
        if name.startswith("test_"):
            setattr(suite, name, _counted(test))


def _counted(test: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(self: Suite, *arguments: Any, **given: Any) -> None:
        __tracebackhide__ = True
        self._precheck(self.implementation_in(given))
        with counting() as self.infopt_tally:
            test(self, *arguments, **given)
        if not self.infopt_tally.cases:
            depends = [name for name in implementer_attributes(type(self)) if name not in _WORDS]
            claimed = ", ".join(sorted(self.capabilities)) or "none"
            pytest.skip(
                f"{NOTHING_TO_TRY}: no case of this property fits {', '.join(depends)}, and the "
                f"claimed capabilities ({claimed})"
            )

    return run


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


def _suite_of(cls: type[Suite]) -> type[Suite]:
    return next(base for base in cls.__mro__ if _is_suite(base))


def _has(made: Any, method: str) -> bool:
    return callable(getattr(made, method, None))


def _told(error: Exception) -> str:
    """An exception and where it was raised."""
    *_, place = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"


def _brief(value: object) -> str:
    told = repr(value)
    if isinstance(value, Collection) and not isinstance(value, str):
        told = f"({', '.join(map(str, value))})"
    return told if len(told) <= 120 else f"{told[:119]}…"


def _article(value: object) -> str:
    """An object by its type: "a SmallQuantizer"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _unknown(suite: type, what: str, name: str, known: Iterable[str]) -> str:
    return f"{suite.__name__} knows no {what} {name!r}{nearest(name, sorted(known))}"


def _missing_fixture(self: Suite) -> NoReturn:
    """The body of a fixture that the implementer has to give, and has not given."""
    suite = _suite_of(type(self))
    pytest.fail(
        f"{type(self).__name__} is a {suite.__name__} and has no fixture {self.fixture!r}; "
        f"define one that returns {self.fixture_returns}",
        pytrace=False,
    )
