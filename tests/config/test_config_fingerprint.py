"""The fingerprint of a release: every field counts, but for those that are left out by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.configuration import fingerprint as fingerprint_of
from pytest_infopt.configuration.fingerprint import EXCLUDED
from pytest_infopt.gates.registry import metrics, plans
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.metrics.metric import Metric
from pytest_infopt.release import (
    Candidate,
    CorpusSource,
    Draft,
    Implementation,
    ModelSource,
    Release,
    ServerSource,
    Statistics,
)

KINDS: list[type] = [
    Release,
    ModelSource,
    Candidate,
    Draft,
    ServerSource,
    Implementation,
    CorpusSource,
    Statistics,
    Budget,
    Metric,
    *plans(),
]


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """A release that has something in every field."""
    document = tmp_path / "a.txt"
    document.write_text("a document")
    (tmp_path / "b.txt").write_text("another document")
    kl, rate = (Budget(metrics()[name], 0.5) for name in ("kl_mean", "semantic_hit_rate"))
    server, draft = ServerSource("http://localhost/v1"), Draft(ModelSource("draft", "org/small"))
    source = ModelSource("c", str(tmp_path), options={"bits": 4}, server=server)
    return Release(
        reference=ModelSource("reference", "org/base"),
        candidates=(Candidate(source, {"kl_mean": kl}, draft=draft),),
        corpus=CorpusSource(files=(document,)),
        plans=tuple(kind() for kind in plans()),
        budgets={"semantic-cache": {"semantic_hit_rate": rate}},
        implementations=(Implementation("quantizer", "mine", "module:name"),),
    )


def every_field() -> Iterator[tuple[type, str]]:
    for kind in KINDS:
        for field in fields(kind):
            yield kind, field.name


@pytest.mark.parametrize(
    ("kind", "name"), every_field(), ids=lambda each: getattr(each, "__name__", each)
)
def test_every_field_counts_or_is_left_out_by_name(
    kind: type, name: str, release: Release, tmp_path: Path
) -> None:
    before = fingerprint_of(release)
    after = fingerprint_of(with_change(release, kind, name, tmp_path))
    left_out = name in EXCLUDED.get(kind, {})
    if (kind, name) == (CorpusSource, "files"):
        left_out = False  # the documents' text, which another file changes, is in it
    assert (before == after) is left_out


def test_whatever_is_left_out_exists_and_has_a_reason() -> None:
    for kind, names in EXCLUDED.items():
        assert set(names) <= {field.name for field in fields(kind)}
        assert all(reason.strip() for reason in names.values())


def test_the_version_and_the_files_of_a_model_count(
    release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prints = {fingerprint_of(release)}
    module = import_module("pytest_infopt.configuration.fingerprint")
    monkeypatch.setattr(module, "__version__", "another")
    prints.add(fingerprint_of(release))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    prints.add(fingerprint_of(release))
    assert len(prints) == 3


def with_change(value: Any, kind: type, name: str, folder: Path) -> Any:
    """The value, in which that field of every ``kind`` is another one."""
    if not is_dataclass(value) or isinstance(value, type):
        return _inside(value, kind, name, folder)
    changed = {
        f.name: with_change(getattr(value, f.name), kind, name, folder) for f in fields(value)
    }
    if type(value) is kind:
        changed[name] = _another(getattr(value, name), folder)
    return replace(value, **changed)


def _inside(value: Any, kind: type, name: str, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: with_change(each, kind, name, folder) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(with_change(each, kind, name, folder) for each in value)
    return value


def _another(value: Any, folder: Path) -> Any:
    match value:
        case Enum():
            return next(each for each in type(value) if each is not value)
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case Path() | None:
            return folder / "b.txt"
        case Mapping():
            return {**value, "more": 1}
        case tuple():
            return _another_tuple(value, folder)
    return replace(
        value, **{(field := fields(value)[0].name): _another(getattr(value, field), folder)}
    )


def _another_tuple(value: tuple[Any, ...], folder: Path) -> tuple[Any, ...]:
    if value and isinstance(value[0], Path):
        return (folder / "b.txt",)
    if not value or not is_dataclass(value[0]):
        return (*value, 5)
    return value[:-1]
