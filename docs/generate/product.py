"""Everything that the reference pages take from the code. No other module here imports the product.

Each function reads one table of the product and gives it as plain rows, so that a table that moves
is followed in one place.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from fault_matrix import Matrix

import pytest_infopt
from pytest_infopt.configuration.schema import release_file_model
from pytest_infopt.engines.base import Capability
from pytest_infopt.engines.formats import DTYPE_ALIASES, DTYPES, FORMATS
from pytest_infopt.engines.weight_precision import precision_of
from pytest_infopt.gates import registry
from pytest_infopt.gates.base import GateSpec
from pytest_infopt.gates.limits import candidate_limits
from pytest_infopt.metrics.metric import Metric, Rule, Unit
from pytest_infopt.options import OPTIONS, Option
from pytest_infopt.plugin import MARKERS
from pytest_infopt.release import ModelSource
from pytest_infopt.run.exit_status import ExitStatus

ENTRY_POINT_GROUPS = {
    "infopt.gates": "A gate: a `GateSpec`.",
    "infopt.engines": "An engine: an `EngineSpec`.",
    "infopt.reports": "A report: a `ReportSpec`.",
    "infopt.suites": "A conformance suite: a subclass of `Suite`.",
}
_FIXTURE_MODULES = ("pytest_infopt.fixtures.models", "pytest_infopt.fixtures.caches")
_API_PACKAGES = ("pytest_infopt", "infopt_suites", "infopt_reference")
_DATA = Path(__file__).parent


class GateRow(NamedTuple):
    """A gate as the reference shows it; ``requires`` names engine capabilities."""

    name: str
    summary: str
    samples: str
    metrics: list[Metric]
    requires: list[str]
    tables: list[str]  # of infopt.toml


def gates() -> list[GateRow]:
    """Every gate, in the order of running."""
    return [_gate_row(spec) for spec in registry.gates().values()]


def _gate_row(spec: GateSpec) -> GateRow:
    procedure = ast.parse(spec.procedure_file.read_text(encoding="utf-8"))
    _, _, more = (ast.get_docstring(procedure) or "").partition("\n\n")
    return GateRow(
        spec.name,
        f"{spec.summary}\n\n{more}",
        spec.samples,
        list(spec.metrics),
        [str(capability) for capability in Capability if capability in spec.requires],
        [plan.table for plan in spec.plans],
    )


def metrics() -> dict[str, list[Metric]]:
    """The metrics of each gate."""
    return {spec.name: list(spec.metrics) for spec in registry.gates().values() if spec.metrics}


def default_budgets(parameters: int) -> dict[str, dict[str, float]]:
    """The default limits of each number format, by metric, for a reference of so many parameters; a
    plain copy as "none (float32)"."""
    reference = ModelSource("reference", "embedded:smollm2", dtype="float32")
    candidates = {
        **{f"none ({dtype})": ModelSource(dtype, "embedded:smollm2", dtype=dtype)
           for dtype in ("float32", "bfloat16")},
        **{name: ModelSource(name, "embedded:smollm2", name, "float32") for name in FORMATS
           if name not in ("none", "gguf")},
    }  # fmt: skip
    return {
        name: {metric: budget.limit for metric, budget in limits.items()}
        for name, candidate in candidates.items()
        for limits in [
            candidate_limits(
                (),
                candidate,
                reference,
                precision_of(candidate, reference),
                {},
                served=False,
                drafted=False,
                parameters=parameters,
            )
        ]
    }


def options() -> list[Option]:
    """Every option of the command line."""
    return list(OPTIONS.values())


def release_schema() -> dict[str, Any]:
    """The JSON Schema of infopt.toml."""
    return release_file_model().model_json_schema()


def result_schema() -> dict[str, Any]:
    """The JSON Schema of result.json."""
    path = Path(pytest_infopt.__file__).parent / "report" / "schema" / "result.schema.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


class QuantizationRow(NamedTuple):
    """A number format or pruning method; ``options`` None: its loader takes any."""

    name: str
    bits: int | None
    summary: str
    options: list[str] | None
    extra: str | None


def quantizations() -> list[QuantizationRow]:
    """What a candidate's ``quantization`` may name."""
    return [
        QuantizationRow(
            form.name,
            form.bits,
            form.summary,
            None if form.options is None else sorted(form.options),
            (form.extra or form.module) if form.module else None,
        )
        for form in FORMATS.values()
    ]


def dtypes() -> list[str]:
    """The number formats of an unquantized model."""
    return [*DTYPES, *DTYPE_ALIASES]


def exit_statuses() -> tuple[type[ExitStatus], type[pytest.ExitCode]]:
    """Our exit statuses, and pytest's own."""
    return ExitStatus, pytest.ExitCode


def units_and_rules() -> tuple[type[Unit], type[Rule]]:
    """The units of metrics, and the rules by which samples become a verdict."""
    return Unit, Rule


def capabilities() -> type[Capability]:
    """What an engine can do."""
    return Capability


def member_comments(enum: type[Enum]) -> dict[str, str]:
    """What the source says behind each member of an enumeration."""
    lines = re.findall(r"^    (\w+) = [^#\n]*(?:# *(.*))?$", inspect.getsource(enum), re.MULTILINE)
    return {name: comment for name, comment in lines if name in enum.__members__}


def markers() -> list[str]:
    """The markers, each as "name(arguments): meaning"."""
    return MARKERS


class FixtureRow(NamedTuple):
    name: str
    scope: str
    text: str


def fixtures() -> list[FixtureRow]:
    """The public fixtures, read from the source: pytest has no public list of them."""
    return [row for name in _FIXTURE_MODULES for row in _fixtures_of(import_module(name))]


def _fixtures_of(module: ModuleType) -> Iterator[FixtureRow]:
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                source = ast.unparse(decorator)
                if source.startswith("pytest.fixture"):
                    scope = re.search(r"scope='(\w+)'", source)
                    text = ast.get_docstring(node) or ""
                    yield FixtureRow(node.name, scope[1] if scope else "function", text)


class SuiteRow(NamedTuple):
    name: str
    topic: str
    fixture: str
    returns: str
    text: str
    capabilities: Mapping[str, str]
    properties: dict[str, str]  # name: docstring


def suites() -> list[SuiteRow]:
    """Every conformance suite."""
    suites_package = import_module("infopt_suites")
    found = [getattr(suites_package, name) for name in suites_package.__all__]
    return [_suite_row(each) for each in found if getattr(each, "topic", "")]


def _suite_row(suite: Any) -> SuiteRow:
    from infopt_suites.base import suite_tests

    properties = {
        name: inspect.getdoc(getattr(owner, name)) or ""
        for name, owner in suite_tests(suite).items()
    }
    text = inspect.getdoc(suite) or ""
    return SuiteRow(
        suite.__name__,
        suite.topic,
        suite.fixture,
        suite.fixture_returns,
        text,
        suite.offers,
        properties,
    )


def public_packages() -> list[str]:
    """Every package and module of ours with an ``__all__``: what a user may import."""
    return [name for package in _API_PACKAGES for name in _with_all(package)]


def _with_all(package: str) -> Iterator[str]:
    found = import_module(package)
    if getattr(found, "__all__", None):
        yield package
    for path in sorted(Path(str(found.__file__)).parent.iterdir()):
        if (path / "__init__.py").is_file():
            yield from _with_all(f"{package}.{path.name}")
        elif path.stem != "__init__" and path.suffix == ".py" and _says_all(path):
            yield f"{package}.{path.stem}"


def _says_all(path: Path) -> bool:
    return "\n__all__ = " in path.read_text(encoding="utf-8")


def public_names(package: str) -> dict[str, Any]:
    """The objects that a package offers, by name."""
    module = import_module(package)
    return {name: getattr(module, name) for name in sorted(module.__all__, key=str.lower)}


def registered(group: str) -> dict[str, str]:
    """The entry points of a group: name and target."""
    return {point.name: point.value for point in entry_points(group=group)}


def architectures() -> dict[str, dict[str, Any]]:
    """What `tests/architectures/measure.py` found of each family."""
    return _measured("architectures.json")


def faults() -> Matrix:
    """What `tests/faults/see.py` found of each fault and sound variant."""
    return Matrix(_measured("faults.json"), _measured("fault_kinds.json"), _measured("rivals.json"))


def _measured(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((_DATA / name).read_text(encoding="utf-8"))
    return found
