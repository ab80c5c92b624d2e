"""The release that compares techniques, each made from the reference of the user's own."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from .toml_source import TomlSource, read_toml

EMBEDDED = Path(str(files("pytest_infopt"))) / "embedded"

# What a release says of its own candidates: techniques have others.
_OF_CANDIDATES = {"candidates", "budgets", "baseline", "implementations"}


def techniques_source(own: TomlSource | None, embedded: bool) -> TomlSource:
    """The techniques and their limits, with everything else that the release's ``own`` file says:
    its reference, its texts, its sizes. The ``embedded`` reference is theirs where nobody names
    another."""
    source = read_toml(EMBEDDED / "techniques.toml")
    assert source is not None  # without a prefix, the file is the table
    values = source.values if embedded else {**source.values, "reference": {}}
    said = {} if own is None else own.values
    kept = {key: value for key, value in said.items() if key not in _OF_CANDIDATES}
    return replace(source, values={**values, **kept})
