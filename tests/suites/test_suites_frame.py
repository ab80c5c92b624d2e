"""The frame of all suites: what may not be replaced or claimed, and one door for every topic."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import infopt_suites
import pytest
from hypothesis import strategies as st
from infopt_suites.base import NOT_OFFERED, Suite, requires, suite_tests
from infopt_suites.configured import Configured, implementer_attributes
from infopt_suites.laws import for_all

from pytest_infopt.conformance.implementations import gate_files, template_topic
from pytest_infopt.report import conformance


class Doubling(Suite):
    """A suite to try the frame with."""

    topic = "doubling"
    offers = {"fast": "is fast"}  # noqa: RUF012
    most: Any = 3

    def test_doubles(self, double: Any) -> None:
        """Usual causes: none."""

    @requires("fast")
    def test_is_fast(self, double: Any) -> None:
        """Usual causes: none."""


class Gate(Configured, Doubling):
    pass


def shipped_suites() -> Iterator[type[Suite]]:
    """Every suite of the package `infopt_suites`."""
    for module in pkgutil.walk_packages(infopt_suites.__path__, "infopt_suites."):
        if ".gates" in module.name:
            continue
        for found in vars(import_module(module.name)).values():
            if isinstance(found, type) and issubclass(found, Suite) and vars(found).get("topic"):
                yield found


def test_every_shipped_suite_has_a_gate_file_and_every_gate_file_a_suite() -> None:
    assert {suite.topic for suite in shipped_suites()} == set(gate_files())


@pytest.mark.parametrize("topic", sorted(gate_files()))
def test_a_gate_file_holds_one_class_which_is_of_its_topic(topic: str) -> None:
    module = import_module(f"infopt_suites.gates.test_gate_conformance_{topic}")
    (template,) = [each for each in vars(module).values() if template_topic(each)]
    assert template.topic == topic
    assert template.__test__ is False


@pytest.mark.parametrize("topic", sorted(gate_files()))
def test_a_gate_hands_its_suite_the_implementation_and_every_fixture_it_must_be_given(
    topic: str,
) -> None:
    module = import_module(f"infopt_suites.gates.test_gate_conformance_{topic}")
    (template,) = [each for each in vars(module).values() if template_topic(each)]
    demanded = [
        name
        for suite in template.__mro__
        if vars(suite).get("topic")
        for name, member in vars(suite).items()
        if callable(member) and "self.missing_fixture(" in inspect.getsource(inspect.unwrap(member))
    ]
    assert demanded
    assert all(name in vars(template) for name in demanded)


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
        ({"capabilities": {"fst"}}, "knows no capability 'fst'; did you mean 'fast'"),
        ({"expected_failures": {"test_double": "#1"}}, "did you mean 'test_doubles'"),
    ],
)
def test_a_claim_that_the_suite_does_not_know_is_refused_at_both_doors(
    claim: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        type("Mine", (Doubling,), claim)
    with pytest.raises(TypeError, match=message):
        Gate.made_for("mine", type("Implementation", (), claim))


def test_the_class_of_an_implementation_says_what_the_implementation_says() -> None:
    def double(number: int) -> int:
        return 2 * number

    plain = Gate.made_for("pkg:double", double)
    assert plain().implementation is double  # not a method of the suite
    assert (plain.capabilities, plain.most, plain.__name__) == (frozenset(), 3, "pkg:double")
    double.capabilities = {"fast"}  # type: ignore[attr-defined]
    double.most = 9  # type: ignore[attr-defined]
    double.topic = "another"  # type: ignore[attr-defined]  # the suite's own
    made = Gate.made_for("pkg:double", double)
    assert (made.capabilities, made.most, made.topic) == ({"fast"}, 9, "doubling")
    assert plain.most == 3


def test_an_implementer_sets_what_the_suite_declares_and_not_the_suites_own() -> None:
    assert set(implementer_attributes(Gate)) == {"capabilities", "expected_failures", "most"}


def test_reports_know_what_is_not_offered_by_the_suites_word_for_it() -> None:
    assert conformance.NOT_OFFERED == NOT_OFFERED


def test_a_law_fails_on_the_smallest_case_and_names_it() -> None:
    def law(number: int) -> None:
        assert number < 10

    with pytest.raises(AssertionError) as raised:
        for_all(law, st.integers(0, 10**6))
    assert raised.value.__notes__ == ["smallest case found: 10"]


def test_a_trap_is_tried_whatever_is_drawn() -> None:
    def law(number: int) -> None:
        assert number != -1

    for_all(law, st.integers(0, 10))
    with pytest.raises(AssertionError) as raised:
        for_all(law, st.integers(0, 10), traps=[("below zero", -1)])
    assert raised.value.__notes__ == ["on the trap 'below zero': -1"]


def test_a_search_draws_the_same_each_time() -> None:
    drawn: list[list[int]] = [[], []]
    for seen in drawn:
        for_all(seen.append, st.integers())
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 10
