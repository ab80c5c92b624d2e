"""The frame of suites: what may not be replaced or claimed, and how classes are made of them."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import infopt_suites
import pytest
from hypothesis import strategies as st
from infopt_suites.base import REQUIRES, Suite, implementer_attributes, requires, suite_tests
from infopt_suites.properties import FinalError, for_all, tried
from infopt_suites.tally import each_case, leave_out, note_kinds

from pytest_infopt.conformance.implementations import GROUP
from pytest_infopt.naming import import_named, registered


class Doubling(Suite):
    """A suite to try the frame with."""

    topic = "doubling"
    fixture = "double"
    fixture_returns = "a callable: number -> number"
    offers = {"fast": "is fast"}  # noqa: RUF012
    most: Any = 3

    def test_doubles(self, double: Any) -> None:
        """Usual causes: none."""

    @requires("fast")
    def test_is_fast(self, double: Any) -> None:
        """Usual causes: none."""


def shipped_suites() -> Iterator[type[Suite]]:
    """Every suite of the package `infopt_suites`."""
    for module in pkgutil.walk_packages(infopt_suites.__path__, "infopt_suites."):
        if ".gates" in module.name:
            continue
        for found in vars(import_module(module.name)).values():
            if isinstance(found, type) and issubclass(found, Suite) and vars(found).get("topic"):
                yield found


def test_every_shipped_suite_is_an_entry_point_of_its_topic_and_a_public_name() -> None:
    entries = {topic: entry.value for topic, entry in registered(GROUP).items()}
    ours = {topic for topic, target in entries.items() if target.startswith("infopt_suites.")}
    assert ours == {suite.topic for suite in shipped_suites()}
    suites: list[Any] = [import_named(entries[topic]) for topic in sorted(ours)]
    assert [suite.topic for suite in suites] == sorted(ours)
    named = {suite.__name__ for suite in suites}
    assert {*infopt_suites.__all__} == named | {"Suite", "requires", "for_all"}


@pytest.mark.parametrize("name", infopt_suites.__all__)
def test_every_public_name_is_imported_when_it_is_asked_for(name: str) -> None:
    assert getattr(infopt_suites, name).__name__ == name


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'QuantizrSuite'"):
        _ = infopt_suites.QuantizrSuite


def test_what_a_suite_is_made_of_needs_no_torch() -> None:
    program = "import sys; from infopt_suites import Suite, for_all, requires; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "transformers"} & {*done.stdout.split()}


def test_every_property_of_a_shipped_suite_counts_as_one() -> None:
    """A class that shares properties says so by a topic, be it empty."""
    for suite in shipped_suites():
        assert {name for name in dir(suite) if name.startswith("test_")} == set(suite_tests(suite))


@pytest.mark.parametrize("topic", sorted(registered(GROUP)))
def test_properties_ask_for_the_fixture_of_their_suite(topic: str) -> None:
    suite: Any = import_named(registered(GROUP)[topic].value)
    members = [getattr(suite, name) for name in dir(suite) if not name.startswith("__")]
    wanted = {
        parameter
        for member in members
        if callable(member) and not isinstance(member, type)
        for parameter in inspect.signature(inspect.unwrap(member)).parameters
    }
    assert suite.fixture in wanted
    assert suite.fixture_returns


def test_every_property_says_why_it_matters_and_what_breaks_it() -> None:
    for suite in shipped_suites():
        for name in suite_tests(suite):
            words = " ".join((inspect.getdoc(getattr(suite, name)) or "").split())
            assert "sual cause" in words, f"{suite.__name__}.{name}"


def test_a_test_that_is_replaced_is_refused() -> None:
    with pytest.raises(TypeError, match="replaces test_doubles, a test of Doubling"):
        type("Mine", (Doubling,), {"test_doubles": lambda self: None})
    mixin = type("Mixin", (), {"test_doubles": lambda self: None})
    with pytest.raises(TypeError, match="replaces test_doubles"):
        type("Mine", (mixin, Doubling), {})


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"capabilities": {"fst"}}, "knows no capability 'fst'; did you mean fast"),
        ({"expected_failures": {"test_double": "#1"}}, "did you mean test_doubles"),
    ],
)
def test_a_claim_that_the_suite_does_not_know_is_refused_both_ways(
    claim: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        type("Mine", (Doubling,), claim)
    with pytest.raises(TypeError, match=message):
        Doubling.made_for("mine", type("Implementation", (), claim))


def test_the_class_of_an_implementation_says_what_the_implementation_says() -> None:
    def double(number: int) -> int:
        return 2 * number

    plain = Doubling.made_for("pkg:double", double)
    assert (plain.capabilities, plain.most, plain.__name__) == (frozenset(), 3, "pkg:double")
    double.capabilities = {"fast"}  # type: ignore[attr-defined]
    double.most = 9  # type: ignore[attr-defined]
    double.topic = "another"  # type: ignore[attr-defined]  # the suite's own
    made = Doubling.made_for("pkg:double", double)
    assert (made.capabilities, made.most, made.topic) == ({"fast"}, 9, "doubling")
    assert plain.most == 3


def test_an_implementer_sets_what_the_suite_declares_and_not_the_suites_own() -> None:
    assert set(implementer_attributes(Doubling)) == {"capabilities", "expected_failures", "most"}


def test_a_property_fails_on_the_smallest_case_and_names_it() -> None:
    def holds(number: int) -> None:
        assert number < 10

    with pytest.raises(AssertionError) as raised:
        for_all(holds, st.integers(0, 10**6))
    assert raised.value.__notes__ == ["smallest case found: 10"]


def test_a_trap_is_tried_whatever_is_drawn() -> None:
    def holds(number: int) -> None:
        assert number != -1

    for_all(holds, st.integers(0, 10))
    with pytest.raises(AssertionError) as raised:
        for_all(holds, st.integers(0, 10), traps=[("below zero", -1)])
    assert raised.value.__notes__ == ["on the trap 'below zero': -1"]


def test_an_error_that_is_final_ends_the_search_at_once() -> None:
    seen: list[int] = []

    def holds(number: int) -> None:
        seen.append(number)
        if number > 10:
            raise FinalError("it takes long to find this out")

    with pytest.raises(FinalError) as raised:
        for_all(holds, st.integers(0, 10**6))
    assert sum(number > 10 for number in seen) == 1
    assert raised.value.__notes__ == [f"smallest case found: {seen[-1]}"]


def test_a_search_draws_the_same_each_time() -> None:
    drawn: list[list[int]] = [[], []]
    for seen in drawn:
        for_all(seen.append, st.integers())
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 10


class Halving(Suite):
    """A suite whose properties say what holds of one case."""

    topic = "halving"
    fixture = "halve"
    fixture_returns = "a callable: number -> number"
    on_numbers = tried("halve")

    @on_numbers(3, least=2, each={"sign": (1, -1), "scale": (1, 10)})
    def test_halves(self, case: Any, sign: int, scale: int) -> None:
        """Usual causes: none."""
        halve, number = case
        assert halve(sign * scale * number) == sign * scale * number / 2

    def _hold(self, halve: Any, holds: Any, most: int, least: int = 0) -> None:
        for number in range(least, most + 1):
            holds((halve, number))


def test_a_property_of_one_case_is_a_test_of_the_implementation_on_all_cases() -> None:
    asked: list[int] = []

    def halve(number: int) -> float:
        asked.append(number)
        return number / 2

    Halving().test_halves(halve=halve)
    assert asked == [2, 3, 20, 30, -2, -3, -20, -30]
    with pytest.raises(AssertionError) as raised:
        Halving().test_halves(halve=lambda number: abs(number) / 2)
    assert raised.value.__notes__ == ["with sign = -1, scale = 1"]


def test_pytest_sees_the_fixture_and_the_docstring_of_a_property_of_one_case() -> None:
    assert [*inspect.signature(Halving.test_halves).parameters] == ["self", "halve"]
    assert Halving.test_halves.__module__ == __name__
    assert Halving.test_halves.__doc__ == "Usual causes: none."
    assert suite_tests(Halving) == {"test_halves": Halving}


class Always:
    """An implementation that raises whatever it is asked for."""

    def __call__(self, *arguments: Any, **given: Any) -> Any:
        raise ArithmeticError("always")

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("__") else ArithmeticError(name)


def needed(suite: type[Suite], name: str) -> set[str]:
    marks = getattr(getattr(suite, name), "pytestmark", ())
    return {word for mark in marks if mark.name == REQUIRES for word in mark.args}


@pytest.mark.parametrize("suite", shipped_suites(), ids=lambda suite: suite.__name__)
@pytest.mark.parametrize("claims", ["none", "needed"])
def test_no_property_passes_an_implementation_that_always_raises(
    suite: type[Suite], claims: str
) -> None:
    for name in suite_tests(suite):
        words = needed(suite, name)
        if words and claims == "none":
            continue  # not tried, and said to be not offered
        mine = type("Mine", (suite,), {"capabilities": words, "_precheck": lambda *_: None})
        with pytest.raises(BaseException):  # noqa: B017, PT011  # skipped, or broken in any way
            getattr(mine(), name)(**{suite.fixture: Always()})


class Counting(Suite):
    """A suite whose properties try as many cases as they are told."""

    topic = "counting"
    fixture = "number"
    fixture_returns = "a number"
    offers = {"big": "numbers above 9"}  # noqa: RUF012
    most: Any = 3

    def test_by_itself(self, number: int) -> None:
        """Usual causes: none."""

    def test_drawn(self, number: int) -> None:
        """Usual causes: none."""
        for_all(lambda case: None, st.integers(), examples=7, traps=[("zero", 0)])

    def test_each(self, number: int) -> None:
        """Usual causes: none."""
        for case in each_case(range(self.most)):
            note_kinds(sign="even" if case % 2 == 0 else "odd")
            if case == 2:
                leave_out()

    @tried("number")()
    def test_held(self, case: int) -> None:
        """Usual causes: none."""
        if case == 0:
            leave_out()

    def _hold(self, number: int, holds: Any) -> None:
        for_all(lambda case: holds(case) if case > 0 else None, st.integers(-1, 1), examples=9)
        holds(0)


@pytest.mark.parametrize(
    ("name", "cases"), [("by_itself", 1), ("drawn", 8), ("each", 2), ("held", None)]
)
def test_a_property_counts_its_cases(name: str, cases: int | None) -> None:
    suite = Counting()
    getattr(suite, f"test_{name}")(number=4)
    if cases is None:  # those that reached the property's own body, of nine that were drawn
        assert 0 < suite.infopt_tally.cases < 9
    else:
        assert suite.infopt_tally.cases == cases
    if name == "each":
        assert [*suite.infopt_tally.kinds["sign"]] == ["even", "odd"]


def test_a_property_that_tried_nothing_is_skipped_and_says_on_what_that_depends() -> None:
    made = type("Mine", (Counting,), {"most": 1, "capabilities": {"big"}})
    made().test_each(number=4)
    made.most = 0
    with pytest.raises(pytest.skip.Exception, match=r"nothing to try: .* most, and .* \(big\)"):
        made().test_each(number=4)


class Demanding(Doubling):
    """A suite that tries nothing without a claim, and needs methods."""

    topic = "demanding"
    fixture = "make_doubler"
    fixture_returns = "a callable that makes a doubler"
    offers = {"fast": "is fast", "whole": "takes whole numbers"}  # noqa: RUF012
    demands = (("fast", "whole"),)
    methods = {"": ("double",), "fast": ("race",)}  # noqa: RUF012
    most: Any = (1, 2)

    def made_from(self, implementation: Any) -> Any:
        return implementation()

    def first_cases(self, implementation: Any) -> Iterator[tuple[str, Any]]:
        for number in self.most:
            yield f"double of {number}", partial(implementation().double, number)

    def test_doubles_again(self, make_doubler: Any) -> None:
        """Usual causes: none."""


class Doubler:
    """What `Demanding` asks for."""

    def double(self, number: int) -> int:
        if number > 2:
            raise OverflowError("too large")
        return 2 * number


@pytest.mark.parametrize(
    ("declared", "implementation", "sentence"),
    [
        ({}, Doubler, "claim one of these capabilities, .*'fast': is fast; 'whole'"),
        ({"capabilities": {"whole"}, "most": ()}, Doubler, r"most is empty, .*default: \(1, 2\)"),
        ({"capabilities": {"whole"}}, Doubler(), "callable that makes a doubler, not a Doubler"),
        ({"capabilities": {"whole"}}, int, "an int has no double"),
        ({"capabilities": {"fast"}}, Doubler, "has no race, needed under the capability 'fast'"),
        ({"capabilities": {"whole"}}, lambda x: x, "calling it raised TypeError: .*frame.py:"),
        (
            {"capabilities": {"whole"}, "most": (3,)},
            Doubler,
            r"double of 3 raised OverflowError: too large .*frame.py.* Declared: most = \(3\)",
        ),
    ],
)
def test_what_cannot_be_tried_is_said_in_one_sentence_once(
    declared: dict[str, Any], implementation: Any, sentence: str
) -> None:
    mine: Any = type("Mine", (Demanding,), declared)
    with pytest.raises(pytest.fail.Exception, match=f"Mine: .*{sentence}"):
        mine().test_doubles_again(make_doubler=implementation)
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="not tried: Mine: "):
            mine().test_doubles_again(make_doubler=implementation)
    if "capabilities" not in declared or ("most" in declared and not declared["most"]):
        with pytest.raises(TypeError, match=sentence):
            Demanding.made_for("mine", type("Implementation", (), declared))


def test_what_can_be_tried_is() -> None:
    mine: Any = type("Mine", (Demanding,), {"capabilities": {"whole"}})
    mine().test_doubles_again(make_doubler=Doubler)
    mine().test_doubles_again(make_doubler=Doubler)
