"""The house: how many rooms stand at its top, how large they are, and that no gate is named
outside its folder."""

from __future__ import annotations

import ast
import inspect
import pickle
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from test_structure_imports import PACKAGES, ROOT, modules

import pytest_infopt
from pytest_infopt.engines.base import Capability
from pytest_infopt.gates.registry import gates, plans
from pytest_infopt.naming import import_named, registered
from pytest_infopt.release import ModelSource

TOP_MODULES = 8
LONGEST_CLASS, LONGEST_HOOKS = 180, 120
GATES = PACKAGES["infopt_suites"] / "gates"


def words(path: Path) -> Iterator[str]:
    """Every text in the code that is no docstring, and every module that is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings:
                yield node.value
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")


def test_few_modules_stand_at_the_top() -> None:
    top = {path.stem for path in PACKAGES["pytest_infopt"].glob("*.py")} - {"__init__"}
    assert len(top) <= TOP_MODULES, sorted(top)


def test_no_class_is_too_long() -> None:
    too_long = [
        (path.name, node.name)
        for _, path in modules("pytest_infopt")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        if (node.end_lineno or 0) - node.lineno > LONGEST_CLASS
    ]
    assert not too_long


def test_the_hooks_are_short() -> None:
    hooks = PACKAGES["pytest_infopt"] / "run" / "hooks.py"
    assert len(hooks.read_text().splitlines()) <= LONGEST_HOOKS


def test_no_gate_is_named_outside_its_folder() -> None:
    names = {each for spec in gates().values() for each in (spec.name, spec.word)}
    names |= {plan.table for plan in plans()} | {plan.__name__ for plan in plans()}
    names -= {str(capability) for capability in Capability}  # a word of its own: "memory"
    names -= {field.name for field in fields(ModelSource)}  # a key of the release: kv_cache
    named = [
        (str(path.relative_to(ROOT)), word)
        for _, path in modules("pytest_infopt")
        for word in words(path)
        if word in names
    ]
    named += [
        (str(path.relative_to(ROOT)), word)
        for spec in gates().values()
        for path in GATES.rglob("*.py")
        if path.parent.name != spec.word
        for word in words(path)
        if word in (spec.name, spec.word)
    ]
    assert not named


@pytest.mark.parametrize("name", pytest_infopt.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(pytest_infopt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pytest_infopt.__getattr__("nothing")


@pytest.mark.parametrize("name", gates())
def test_a_gate_is_whole(name: str) -> None:
    """Its procedure, its measure and what both name of the spec fit together."""
    spec = gates()[name]
    assert import_named(registered("infopt.gates")[name].value) is spec
    assert spec.summary.endswith(".")
    procedure = spec.procedure_file.read_text()
    assert f'infopt_gate("{name}")' in procedure
    assert f"def test_{spec.word}(" in procedure
    measure = import_named(spec.measure_target)
    remote = {n for n, f in inspect.getmembers(measure) if getattr(f, "infopt_remote", False)}
    assert remote
    unused = {n for n in remote if not any(f".{n}" in p.read_text() for p in GATES.rglob("*.py"))}
    assert not unused
    for plan in spec.plans:
        assert pickle.loads(pickle.dumps(plan())) == plan()
