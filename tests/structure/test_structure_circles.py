"""No module needs, by whatever way, a module that needs it: imports for type checkers count."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from test_structure_imports import modules

Graph = dict[str, set[str]]


def graph(found: dict[str, Path]) -> Graph:
    """For each module, the others that it imports: anywhere, TYPE_CHECKING blocks included."""
    return {name: _imported(name, path, found) - {name} for name, path in found.items()}


def _imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    words: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            words |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = [*(base if node.level else []), *filter(None, [node.module])]
            # A name is a module of the package, or what the package's own __init__ has.
            wanted = [".".join([*parts, alias.name]) for alias in node.names]
            words |= {each if each in known else ".".join(parts) for each in wanted}
    return words & known.keys()


def circle(found: Graph) -> list[str]:
    """The modules of one circle, in order; empty where there is none."""
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", ["infopt_reference", "infopt_suites", "pytest_infopt"])
def test_no_module_imports_one_that_imports_it(package: str) -> None:
    found = graph(dict(modules(package)))
    assert any(found.values())
    assert not circle(found)


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("if TYPE_CHECKING:\n    from .two import Two\n")
    (tmp_path / "two.py").write_text("def f():\n    from pack import three\n")
    (tmp_path / "three.py").write_text("import pack.one\n")
    (tmp_path / "__init__.py").write_text("from .one import One\n")
    names = ["__init__", "one", "two", "three"]
    paths = {".".join(["pack", n]).removesuffix(".__init__"): tmp_path / f"{n}.py" for n in names}
    found = graph(paths)
    assert found == {
        "pack": {"pack.one"},
        "pack.one": {"pack.two"},
        "pack.two": {"pack.three"},
        "pack.three": {"pack.one"},
    }
    assert len(circle(found)) == 4
    found["pack.three"].clear()
    assert not circle(found)


def test_suites_and_gates_need_public_names_of_the_plugin_alone() -> None:
    package = dict(modules("infopt_suites"))
    asked = {
        (node.module, alias.name)
        for path in package.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pytest_infopt")
        for alias in node.names
    }
    public = {
        (module, name) for module, path in modules("pytest_infopt") for name in _declared(path)
    }
    assert asked
    assert asked <= public


def _declared(path: Path) -> list[str]:
    """The names in a module's ``__all__``."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found: list[str] = ast.literal_eval(node.value)
            return found
    return []
