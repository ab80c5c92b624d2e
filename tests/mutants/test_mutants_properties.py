"""Each property of each shipped suite finds a planted fault: who finds none may be unable to."""

from __future__ import annotations

import importlib
from pathlib import Path

import infopt_suites
from infopt_suites.base import suite_tests


def mutated() -> set[str]:
    """The properties that the mutants of this folder name."""
    names = [path.stem for path in Path(__file__).parent.glob("*.py")]
    modules = [importlib.import_module(x) for x in names if not x.startswith(("test_", "conftest"))]
    lists = [value for module in modules for value in vars(module).values()]
    return {
        broken
        for mutants in lists
        if isinstance(mutants, list | tuple)
        for mutant in mutants
        if isinstance(broken := getattr(mutant, "broken", None), str)
    }


def test_every_property_kills_a_mutant() -> None:
    suites = [getattr(infopt_suites, x) for x in infopt_suites.__all__ if x.endswith("Suite")]
    properties = {name for suite in suites for name in suite_tests(suite)}
    assert len(properties) > len(suites)
    assert not properties - mutated()
