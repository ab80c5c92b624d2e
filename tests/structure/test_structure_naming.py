"""Near spellings, imports of "module:name", and entry points of several distributions."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_infopt.errors import ConfigurationError
from pytest_infopt.naming import import_named, nearest, registered

GROUP = "infopt.tests_of_naming"


def install(folder: Path, distribution: str, *lines: str) -> Path:
    """A distribution's metadata in a folder of its own, as an installer leaves it."""
    metadata = folder / distribution / f"{distribution}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\n")
    (metadata / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
    return metadata.parent


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("sortr", ["sorter", "cache"], "; did you mean sorter?"),
        ("xyz", ["sorter", "cache"], "; known: sorter, cache"),
        ("xyz", [], ""),
    ],
)
def test_nearest(word: str, known: list[str], hint: str) -> None:
    assert nearest(word, iter(known)) == hint


def test_a_target_is_imported_through_dots() -> None:
    assert import_named("pathlib:Path.cwd") == Path.cwd


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("pathlib", "'pathlib' has to be written \"module:name\""),
        (":Path", "':Path' has to be written"),
        ("pathlib:Pth", "pathlib:Pth: module pathlib has no 'Pth'; did you mean Path?"),
        ("pathlib:Path.cdw", "pathlib:Path.cdw: Path has no 'cdw'; did you mean cwd?"),
        ("no_such_module:x", "no_such_module failed: ModuleNotFoundError: No module named"),
    ],
)
def test_a_target_that_is_not_there_is_named_with_what_is(target: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        import_named(target)
    assert message in str(error.value)


def test_entry_points_follow_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not registered(GROUP)
    monkeypatch.syspath_prepend(install(tmp_path, "one", "b = one:B", "a = one:A"))
    assert {name: entry.value for name, entry in registered(GROUP).items()} == {
        "a": "one:A",
        "b": "one:B",
    }
    monkeypatch.undo()
    assert not registered(GROUP)


def test_a_distribution_that_is_found_twice_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("first", "second"):
        monkeypatch.syspath_prepend(install(tmp_path / folder, "one", f"a = {folder}:A"))
    assert registered(GROUP)["a"].value == "second:A"  # as with modules, the first on the path


def test_one_name_from_two_distributions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, "one", "a = one:A"))
    monkeypatch.syspath_prepend(install(tmp_path, "two", "a = two:A"))
    with pytest.raises(
        ConfigurationError,
        match=r"register .a. in infopt.tests_of_naming: two and one; uninstall one",
    ):
        registered(GROUP)
