"""The reference pages: one function a page, each from the tables of `product`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import product
from fault_matrix import FORMATS
from markup import code, first_sentence, page, prose, table


def options() -> str:
    """Command line and ini keys."""
    header = ["command line", "ini key", "infopt.toml", "allowed", "meaning"]
    rows = [
        [
            code(" ".join(filter(None, [option.flag, option.metavar]))),
            code(option.key) if option.ini else "–",
            code(option.toml) if option.toml else "–",
            option.allowed or "–",
            option.help,
        ]
        for option in product.options()
    ]
    return page(
        "Options",
        "An option given in several places counts in this order: marker, command line, ini file, "
        "`infopt.toml`, default. A relative path is relative to the place where it is written: "
        "to the directory in which pytest was started, to the ini file's or to the "
        "configuration's.",
        table(header, rows),
    )


def configuration() -> str:
    """Tables and keys of infopt.toml."""
    schema = product.release_schema()
    return page(
        "infopt.toml",
        "The same tables may stand in `pyproject.toml` under `[tool.infopt]`. An unknown key is an "
        'error, and values are not converted: `"3"` is no number.',
        *_schema_tables("", schema, schema["$defs"]),
    )


def _schema_tables(
    prefix: str, schema: Mapping[str, Any], known: Mapping[str, Any]
) -> Iterator[str]:
    """A heading and a table of keys for each table below a JSON Schema."""
    for name, field in schema["properties"].items():
        inner, repeated = _inner_table(field, known)
        path = f"{prefix}{name}"
        if inner is not None:
            shown = f"{path}.NAME" if repeated else path
            yield f"## [{shown}]"
            yield field.get("description", "")
            plain = {
                key: value
                for key, value in inner["properties"].items()
                if _inner_table(value, known)[0] is None
            }
            yield _keys(plain, known)
            yield from _schema_tables(f"{shown}.", inner, known)
        elif not prefix:
            yield f"## [{path}]"
            yield f"{field.get('description', '')} Keys are free."


def _inner_table(field: Mapping[str, Any], known: Mapping[str, Any]) -> tuple[Any, bool]:
    """The table that a field holds, if it does, and whether it holds one for each name."""
    for choice in [field, *field.get("anyOf", ())]:
        if "$ref" in choice:
            return known[choice["$ref"].rpartition("/")[2]], False
        extra = choice.get("additionalProperties")
        if isinstance(extra, dict) and "$ref" in extra:
            return known[extra["$ref"].rpartition("/")[2]], True
    return None, False


def _keys(properties: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    rows = [
        [code(name), _type(field), _default(field), prose(field.get("description", ""))]
        for name, field in properties.items()
    ]
    return table(["key", "type", "default", "meaning"], rows)


def _type(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(each) for each in field["anyOf"] if each.get("type") != "null")
    bounds = [
        f"{sign} {field[key]:g}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in field
    ]
    kind = str(field.get("type", "any"))
    if kind == "array":
        kind = f"list of {_type(field.get('items', {}))}"
    return " ".join([{"object": "table"}.get(kind, kind), *bounds])


def _default(field: Mapping[str, Any]) -> str:
    if field.get("default") in (None, ""):
        return "–"
    value = field["default"]
    return code(str(value).lower() if isinstance(value, bool) else value)


def metrics() -> str:
    """Metrics with unit, direction, rule and default budgets."""
    unit, rule = product.units_and_rules()
    parts = []
    for gate, found in product.metrics().items():
        parts.append(f"## {gate}")
        rows = [
            [
                code(metric.name),
                str(metric.unit),
                str(metric.rule),
                "at least" if metric.higher_is_better else "at most",
                metric.summary,
            ]
            for metric in found
        ]
        parts.append(table(["metric", "unit", "rule", "budget", "meaning"], rows))
    return page(
        "Metrics",
        "A metric with a budget is judged. One without is reported.",
        *parts,
        "## Units",
        _members(unit),
        "## Rules",
        "A rule says how the samples of a metric become a verdict.",
        _members(rule),
        "## Default budgets",
        "A number format brings these budgets. `[budgets]` of `infopt.toml` replaces them, and a "
        "candidate's own budgets replace both. Sizes are shares of the reference's, here of "
        "float32 on a CPU. [Where they come from](../explanation/default-budgets.md).",
        "### Models below a billion parameters",
        _default_budgets(product.default_budgets(parameters=135_000_000)),
        "### Larger models",
        "Where these differ:",
        _default_budgets(_differences()),
    )


def _members(enum: Any) -> str:
    meanings = product.member_comments(enum)
    rows = [[code(member.value), meanings.get(member.name, "")] for member in enum]
    return table(["name", "meaning"], rows)


def _differences() -> dict[str, dict[str, float]]:
    """The limits of large models that are not those of small ones."""
    small, large = (product.default_budgets(parameters=size) for size in (135_000_000, 8 * 10**9))
    return {
        name: {metric: limit for metric, limit in limits.items() if small[name][metric] != limit}
        for name, limits in large.items()
    }


def _default_budgets(by_format: dict[str, dict[str, float]]) -> str:
    """A column for each set of limits that some formats share; a row for each metric."""
    columns: dict[tuple[tuple[str, float], ...], list[str]] = {}
    for name, limits in by_format.items():
        columns.setdefault(tuple(sorted(limits.items())), []).append(name)
    names = list(dict.fromkeys(name for limits in by_format.values() for name in limits))
    header = ["metric", *(", ".join(map(code, formats)) for formats in columns.values())]
    rows = [
        [code(name), *(f"{dict(limits)[name]:g}" if name in dict(limits) else "–"
                       for limits in columns)]
        for name in names
    ]  # fmt: skip
    return table(header, rows)


def gates() -> str:
    """Gates in their order of running, with what each measures and requires."""
    parts = []
    for gate in product.gates():
        parts += [f"## {gate.name}", prose(gate.summary)]
        facts = [
            ("A sample is one of its", gate.samples),
            ("It requires of an engine", ", ".join(gate.requires)),
            ("Its tables of `infopt.toml`", ", ".join(f"`[{name}]`" for name in gate.tables)),
            ("Its [metrics](metrics.md)", ", ".join(code(metric.name) for metric in gate.metrics)),
        ]
        parts.append("\n".join(f"- {what}: {value}" for what, value in facts if value))
    return page(
        "Gates",
        "Each gate is a pytest item for each candidate. They run in this order.",
        *parts,
        "## Capabilities of engines",
        "A gate that requires what an engine lacks is not run, and the reports say why.",
        _members(product.capabilities()),
    )


def quantizations() -> str:
    """What a candidate's ``quantization`` may name."""
    rows = [
        [
            code(row.name),
            str(row.bits or "–"),
            row.summary,
            "any" if row.options is None else ", ".join(map(code, row.options)),
            code(f"pytest-infopt[{row.extra}]") if row.extra else "–",
        ]
        for row in product.quantizations()
    ]
    return page(
        "Quantizations",
        "A candidate's `quantization` is one of these names, or `module:function`: a loader of "
        "your own. Plain names are this project's reference quantizers, clear and not fast. Names "
        "with a library's are that library's.",
        table(["name", "bits", "what is done", "options", "install"], rows),
        "## Dtypes",
        "A model's `dtype` is one of " + ", ".join(map(code, product.dtypes())) + ", or `auto`.",
    )


_STATUSES = {
    "PASSED": "every gate passed",
    "FAILED": "a gate failed, or a test of yours",
    "INCONCLUSIVE": "too little evidence; 0 with `--infopt-policy=warn`",
    "HARNESS_ERROR": "something could not be measured",
    "OK": "every test passed",
    "TESTS_FAILED": "a test failed",
    "INTERRUPTED": "pytest was interrupted",
    "INTERNAL_ERROR": "an internal error",
    "USAGE_ERROR": "a wrong option or configuration",
    "NO_TESTS_COLLECTED": "nothing was collected",
    "MAX_WARNINGS_ERROR": "too many warnings",
}


def exit_statuses() -> str:
    """Ours, and pytest's."""
    ours, pytests = product.exit_statuses()
    rows = [[str(int(each)), each.name, _STATUSES[each.name]] for each in ours]
    taken = {int(each) for each in ours}
    rows += [
        [str(int(each)), each.name, _STATUSES[each.name] + " (pytest's own)"]
        for each in pytests
        if int(each) not in taken
    ]
    rows.sort(key=lambda row: int(row[0]))
    return page("Exit statuses", table(["status", "name", "meaning"], rows))


def result_json() -> str:
    """Fields of result.json."""
    schema = product.result_schema()
    parts = ["## The run", _fields(schema)]
    for name, definition in schema["$defs"].items():
        parts += [f"## {name}", definition.get("description", "")]
        if "properties" in definition:
            parts.append(_fields(definition))
        if "enum" in definition:
            parts.append("One of " + ", ".join(map(code, definition["enum"])) + ".")
    return page("result.json", schema["description"], *parts)


def _fields(definition: Mapping[str, Any]) -> str:
    required = definition.get("required", ())
    rows = [
        [
            code(name),
            _json_type(field),
            "always" if name in required else "may be absent",
            field.get("description", ""),
        ]
        for name, field in definition["properties"].items()
    ]
    return table(["field", "type", "there", "meaning"], rows)


def _json_type(field: Mapping[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name})"
    if "anyOf" in field:
        return " or ".join(map(_json_type, field["anyOf"]))
    if "const" in field:
        return code(field["const"])
    if "enum" in field:
        return ", ".join(code("null" if each is None else each) for each in field["enum"])
    kind = field.get("type", "any")
    kinds = kind if isinstance(kind, list) else [kind]
    if "array" in kinds and "items" in field:
        kinds = [f"list of {_json_type(field['items'])}" if k == "array" else k for k in kinds]
    return " or ".join(kinds)


def fixtures() -> str:
    """Fixtures and markers."""
    parts = []
    for row in product.fixtures():
        parts += [f"### {row.name}", f"Scope: {row.scope}.", prose(row.text)]
    named = [marker.split(": ", 1) for marker in product.markers()]
    rows = [[code(name), meaning] for name, meaning in named]
    return page(
        "Fixtures and markers",
        "## Fixtures",
        *parts,
        "## Markers",
        table(["marker", "meaning"], rows),
    )


def suites() -> str:
    """Conformance suites: topics, capabilities, properties."""
    parts = []
    for suite in product.suites():
        given = f"Fixture: `{suite.fixture}`, {suite.returns}."
        parts += [f"## {suite.name}", f"Topic: `{suite.topic}`. {given}", prose(suite.text)]
        if suite.capabilities:
            rows = [[code(name), prose(text)] for name, text in suite.capabilities.items()]
            parts.append(table(["capability", "what it claims"], rows))
        rows = [[code(name), first_sentence(text)] for name, text in suite.properties.items()]
        parts.append(table(["property", "what holds"], rows))
    return page(
        "Suites",
        "An implementation claims capabilities. A property that needs a capability runs only "
        "where it is claimed; all other properties always run.",
        *parts,
    )


def entry_points() -> str:
    """Groups of entry points and what is registered."""
    parts = []
    for group, meaning in product.ENTRY_POINT_GROUPS.items():
        parts += [f"## {group}", meaning]
        rows = [[code(name), code(target)] for name, target in product.registered(group).items()]
        if rows:
            parts.append(table(["name", "registered by this project"], rows))
    return page(
        "Entry points",
        "A package adds to pytest-infopt through these groups, each line written as "
        '`name = "module:ATTRIBUTE"`.',
        *parts,
    )


def api() -> str:
    """Every public name with its signature and docstring."""
    parts = []
    for package in product.public_packages():
        parts.append(f"## {package}")
        rows = [
            [code(name + _signature(found)), _summary(found)]
            for name, found in product.public_names(package).items()
        ]
        parts.append(table(["name", "meaning"], rows))
    return page(
        "Public API",
        "What a package lists in its `__all__` is public: it follows semantic versioning. "
        "Everything else may change without notice.",
        *parts,
    )


def _signature(found: object) -> str:
    if not inspect.isroutine(found) or not callable(found):
        return ""
    parameters = inspect.signature(found).parameters.values()
    return f"({', '.join(_parameter(each) for each in parameters)})"


def _parameter(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    return f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name


def _summary(found: object) -> str:
    documented = inspect.isclass(found) or inspect.isroutine(found)
    return first_sentence(inspect.getdoc(found) or "") if documented else _value(found)


def _value(found: object) -> str:
    text = repr(found)
    return code(text) if len(text) <= 60 and "`" not in text else f"a `{type(found).__name__}`"


def architectures() -> str:
    """What the gates said of copies of tiny models of every causal family."""
    families = product.architectures()
    gated = {name: found for name, found in families.items() if "gates" in found}
    copies = list(dict.fromkeys(copy for found in gated.values() for copy in found["gates"]))
    rows = [
        [
            code(name),
            ", ".join(map(code, found["cache"])) or "none",
            *(_outcomes(found["gates"].get(copy, {})) for copy in copies),
        ]
        for name, found in gated.items()
    ]
    others = [
        [code(name), kind, code(found[kind])]
        for name, found in families.items()
        for kind in ("refused", "not built")
        if kind in found
    ]
    return page(
        "Architectures",
        "For each causal family of transformers, a tiny model with random weights was gated "
        "against copies of itself. PASS stands for all gates that are not named; "
        "the quantized copies went through equivalence, kv-cache and memory. What is quoted is "
        "the reason. `python tests/architectures/measure.py` writes this table anew.",
        table(["family", "layers of its cache", *copies], rows),
        "## Families that are not in the table",
        "Refused models are no causal language models. The others could not be made small.",
        table(["family", "", "what was said"], others),
    )


def _outcomes(gates: Mapping[str, list[str]]) -> str:
    """The gates that did not pass, or that left something unjudged, with their reasons."""
    told = [
        f"{gate} {outcome[0]}: {code(outcome[-1])}" if len(outcome) > 1 else f"{gate} {outcome[0]}"
        for gate, outcome in gates.items()
        if outcome != ["PASS"]
    ]
    return "; ".join(told) or "PASS"


def faults() -> str:
    """What the gates said of planted faults and of sound variants."""
    found = product.faults()
    header = ["fault", *FORMATS]
    return page(
        "Faults and sound variants",
        "Faults of each kind were planted into candidates by seed, and the gates judged them: "
        "`make see` shows the matrix, and `make see MINUTES=30` measures what it lacks. A fault is "
        "beyond a format's noise where it changes a row of weights by more than rounding does, or, "
        "where it changes no weights, the logits on its route by more than the clean candidate's "
        "differ from the reference's. Cells name the gates that fail it, and say whether the "
        "wrong module was named first. In brackets: smaller than the noise. Gates that do not "
        "compare a fault's route ran only where those that do saw nothing. Tiny models have ten "
        "layers and random weights.",
        found.in_words(),
        table(found.SUMMARY, found.summary()),
        "## Beside other tools",
        "firefly-ml 0.6.0 and pytest-torch 1.1.1 on the same planted candidates, by their own "
        "functions (`tests/faults/rivals.py` says which). They are granted what they say of the "
        "clean candidate: a fault counts as caught where a check fails, or a layer is beyond its "
        "tolerance, that the clean one passes. The last column says what they say of the clean "
        "candidate when they do not know it. Neither compares caches, single last positions or a "
        "session's later passes; an absent verdict counts as not caught.",
        table(found.RIVALS, found.rivals()),
        *(_section(f"Faults in {model}", header, found.table(model)) for model in found.models),
        _section("Draws of one kind", found.DRAWS, found.draws()),
        "## Sound variants",
        "Other ways to the same numbers: no gate may fail them.",
        *(
            _section(f"In {model}", header, found.table(model, sound=True), level=3)
            for model in found.models
        ),
        _section("Clean formats", ["format", "model", ""], found.clean_formats(), level=3),
        *(
            _section(title, columns, rows)
            for title, columns, rows in (
                ("Beyond the noise, and caught by no gate", _FAULT, found.missed()),
                ("Caught, and the wrong module not named first", _NAMED, found.unnamed()),
                ("Sound, and accused", _ACCUSED, found.accused()),
            )
        ),
        "## Kinds",
        table(
            ["kind", "group", ""],
            [[code(n), k["group"], k["summary"]] for n, k in found.kinds.items()],
        ),
    )


_FAULT = ["fault", "model", "format", "", "why"]
_NAMED = ["fault", "model", "format", "", "named"]
_ACCUSED = ["variant", "model", "format", "gates", "why"]


def _section(title: str, header: Sequence[str], rows: list[list[str]], level: int = 2) -> str:
    if not rows:
        return ""
    return f"{'#' * level} {title}\n\n{table(header, rows)}"


PAGES: dict[str, Callable[[], str]] = {
    "options": options,
    "configuration": configuration,
    "gates": gates,
    "metrics": metrics,
    "quantizations": quantizations,
    "exit-statuses": exit_statuses,
    "result-json": result_json,
    "fixtures": fixtures,
    "suites": suites,
    "entry-points": entry_points,
    "api": api,
    "architectures": architectures,
    "faults": faults,
}
