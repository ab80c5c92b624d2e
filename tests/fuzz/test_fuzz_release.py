"""Random infopt.toml files and command lines: a release comes of them, or one clear error."""

from __future__ import annotations

import types
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Union, get_args, get_origin

import pytest
from cases import cases
from documents import SCALARS, WORDS, altered, damaged, toml
from hypothesis import event, example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from pytest_infopt.configuration import fingerprint, load_release, plan_lines
from pytest_infopt.configuration.schema import release_file_model
from pytest_infopt.engines.formats import DTYPES, FORMATS
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.gates.registry import metrics
from pytest_infopt.options import OPTIONS, Kind, settings

WHOLE = """
[reference]
model = "./base"
dtype = "float32"

[candidates.int8]
quantization = "int8"
budgets = {kl_mean = 0.25, ttft_ratio = "off"}

[candidates.other]
model = "org/other"
server = {url = "http://localhost:1/v1"}

[budgets]
kl_mean = "0.5 nats"
weight_bytes = "0.4x"

[corpus]
files = ["texts/*.txt"]

[statistics]
seed = 3
policy = "warn"
"""
USUAL = {  # of keys that are text of which little is allowed
    "engine": ["transformers"],
    "device": ["auto", "cpu", "cuda:1"],
    "oracle": ["auto", "float64", "float32"],
    "policy": ["block", "warn", "fail"],
    "url": ["http://localhost:1/v1", "localhost"],
}
GIVEN = st.sampled_from(
    [
        *FORMATS,
        *DTYPES,
        "int8@./base",
        "./base",
        "org/x",
        "other",
        "latest",
        "7",
        "warn",
        "cpu",
        ".",
    ]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    for name in ("base", "texts"):
        (folder / name).mkdir()
    (folder / "base" / "config.json").write_text("{}")
    (folder / "texts" / "a.txt").write_text("some words")
    return folder


def release_or_refusal(folder: Path, content: bytes | None, words: dict[str, Any]) -> bool:
    """Whether a release comes of it, the same one each time, whose plan can be shown."""
    file = folder / "infopt.toml"
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)
    try:
        release = load_release(folder, settings(as_given(folder, words)))
        plan_lines(release, folder)
        again = load_release(folder, settings(as_given(folder, words)))
        assert repr(again) == repr(release)
        assert fingerprint(again, folder) == fingerprint(release, folder)
    except (ConfigurationError, pytest.UsageError) as error:
        event(str(error).splitlines()[0].rpartition(": ")[2][:30])
        return False
    return True


def as_given(folder: Path, words: dict[str, Any]) -> Any:
    """pytest's config of a command line."""
    return SimpleNamespace(
        getoption=lambda key, default=None: words.get(key, default),
        getini=lambda key: None,
        inipath=None,
        rootpath=folder,
        invocation_params=SimpleNamespace(dir=folder),
    )


def test_the_whole_one_is_a_release(folder: Path) -> None:
    assert release_or_refusal(folder, WHOLE.encode(), {})


@cases(smoke=30, fuzz=2000)
@given(damaged(WHOLE.encode()))
def test_any_damage_to_a_file(folder: Path, content: bytes) -> None:
    release_or_refusal(folder, content, {})


@cases(smoke=60, fuzz=1500)
@example({"semantic_cache": {"pairs": "\0"}})
@given(
    st.deferred(lambda: tables(release_file_model()).map(with_models))
    .flatmap(lambda t: st.just(t) | altered(t))
    .filter(lambda t: isinstance(t, dict))
)
def test_any_keys_and_values(folder: Path, written: dict[str, Any]) -> None:
    release_or_refusal(folder, toml(written).encode(), {})


@cases(smoke=30, fuzz=1500)
@given(st.booleans(), st.deferred(lambda: command_lines()))
def test_any_command_line(folder: Path, with_file: bool, words: dict[str, Any]) -> None:
    release_or_refusal(folder, WHOLE.encode() if with_file else None, words)


def tables(schema: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Some keys of a table of the file, with values that mostly have the key's type."""
    keys = {name: values(field.annotation, name) for name, field in schema.model_fields.items()}
    chosen = st.sets(st.sampled_from(sorted(keys)), max_size=4)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({n: keys[n] for n in sorted(names)}))


def with_models(drawn: dict[str, Any]) -> dict[str, Any]:
    """The file with a reference that is there, and with a candidate where it has none."""
    reference = drawn.get("reference", {})
    if isinstance(reference, dict):
        drawn = {**drawn, "reference": {**reference, "model": "./base"}}
    return {"candidates": {"int8": {"quantization": "int8"}}, **drawn}


@cache
def values(annotation: Any, name: str) -> st.SearchStrategy[Any]:
    """Values of a key: nearly always of its type."""
    likely = typed(annotation, name)
    return st.integers(0, 49).flatmap(lambda n: SCALARS if n == 49 else likely)


def typed(annotation: Any, name: str) -> st.SearchStrategy[Any]:
    """Values of the type of a key, as the file spells them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if name == "budgets":
        limit = st.sampled_from(["off", "0.4x", "5 %", "0.5 nats", 0.5, 1, 1.05, 100])
        return st.dictionaries(st.sampled_from(sorted(metrics())), limit, max_size=3)
    if name == "files":
        return st.lists(st.sampled_from(["texts/*.txt", "*.none", "texts/**"]), max_size=2)
    if name in ("quantization", "dtype"):
        known = ["module:function", *FORMATS] if name == "quantization" else ["auto", *DTYPES]
        return st.sampled_from(known)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return tables(annotation)
    if origin in (types.UnionType, Union):
        return st.one_of([typed(part, name) for part in inner if part is not types.NoneType])
    if origin is list:
        return st.lists(typed(inner[0], name), max_size=3)
    if origin is dict:
        return st.dictionaries(
            st.sampled_from(["a", "b-1", "c d", ""]), typed(inner[1], name), max_size=2
        )
    if origin is not None:  # Annotated, Literal
        return typed(inner[0], name) if isinstance(inner[0], type) else st.sampled_from(inner)
    if name in USUAL:
        return st.sampled_from(USUAL[name])
    plain = {bool: st.booleans(), int: st.integers(0, 300), float: st.floats(0, 1)}
    return plain.get(annotation, WORDS)


def command_lines() -> st.SearchStrategy[dict[str, Any]]:
    """Values of options, as argparse hands them on."""
    text = GIVEN | WORDS.filter(lambda word: "\0" not in word)  # which no process can be given
    kinds = {Kind.FLAG: st.just(True), Kind.LIST: st.lists(text, min_size=1, max_size=3)}
    chosen = {option.key: kinds.get(option.kind, text) for option in OPTIONS.values()}
    return st.fixed_dictionaries({}, optional=chosen)
