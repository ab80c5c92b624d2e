"""Who may import whom, and what a plain pytest run may load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "pytest_infopt": ROOT / "pytest_infopt",
    "infopt_reference": ROOT / "reference" / "infopt_reference",
    "infopt_suites": ROOT / "suites" / "infopt_suites",
}
HEAVY = {
    "asyncio",
    "torch",
    "transformers",
    "scipy",
    "numpy",
    "pydantic",
    "redis",
    "rich",
    "safetensors",
}


def modules(package: str, below: str = "") -> Iterator[tuple[str, Path]]:
    """Dotted name and file of every module of a package, or of one of its folders."""
    root = PACKAGES[package]
    for path in sorted((root / below).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        yield ".".join([package, *(p for p in parts if p != "__init__")]), path


def imports(name: str, path: Path) -> set[str]:
    """Absolute names of everything a module imports anywhere, TYPE_CHECKING blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _without_type_checking(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def _without_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _without_type_checking(child)


def offenders(package: str, below: str, forbidden: tuple[str, ...]) -> list[str]:
    found = list(modules(package, below))
    assert found, f"nothing below {package}/{below}: the rule would hold of nothing"
    return [
        f"{name} imports {imported}"
        for name, path in found
        for imported in imports(name, path)
        if any(imported == word or imported.startswith(word + ".") for word in forbidden)
    ]


def test_reference_stands_alone() -> None:
    assert not offenders("infopt_reference", "", ("pytest_infopt", "infopt_suites", "pytest"))


def test_the_plugin_reaches_suites_and_gates_through_entry_points_alone() -> None:
    assert not offenders("pytest_infopt", "", ("infopt_suites",))


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("measure", ("pytest_infopt.judge", "pytest_infopt.report", "pytest")),
        ("judge", ("pytest_infopt.measure", "pytest_infopt.engines", "torch", "pytest")),
        (
            "report",
            (
                "pytest_infopt.measure",
                "pytest_infopt.engines",
                "pytest_infopt.judge",
                "pytest_infopt.run",
                "pytest_infopt.store",
                "torch",
                "pytest",
            ),
        ),
        ("engines", ("pytest_infopt.judge", "pytest_infopt.measure", "pytest_infopt.report")),
        (
            "store",
            (
                "pytest_infopt.engines.loaders",
                "pytest_infopt.report",
                "pytest_infopt.judge",
                "pytest_infopt.run",
                "pytest",
            ),
        ),
    ],
)
def test_folders_keep_to_their_business(folder: str, forbidden: tuple[str, ...]) -> None:
    # Budgets are declared in judge and are part of a release; engines read releases only.
    assert not offenders("pytest_infopt", folder, forbidden)


def test_results_are_plain_data() -> None:
    ours = [
        imported
        for name, path in modules("pytest_infopt", "results")
        for imported in imports(name, path)
        if imported.partition(".")[0] in {*PACKAGES, "torch", "pytest"}
    ]
    assert ours
    assert [name for name in ours if not name.startswith("pytest_infopt.results")] == []


def test_no_private_pytest_imports() -> None:
    assert not [line for package in PACKAGES for line in offenders(package, "", ("_pytest",))]


@pytest.mark.parametrize("module", ["pytest_infopt.plugin", "pytest_infopt.fixtures.models"])
def test_a_plain_run_loads_nothing_heavy(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "module", ["pytest_infopt.run.hooks", "pytest_infopt.run.session", "pytest_infopt.run.gate_run"]
)
def test_the_process_that_runs_pytest_never_loads_torch(module: str) -> None:
    torch_and_kin = {"torch", "transformers", "scipy"}
    program = f"import sys, {module}; print(*sorted({torch_and_kin} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
