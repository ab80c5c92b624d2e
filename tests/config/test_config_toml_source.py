"""Lines of keys, checked against texts whose lines are known by construction."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.configuration.toml_source import Key, key_lines, read_toml
from pytest_infopt.errors import ConfigurationError

EXAMPLE = '''# comment = 1
top = "a # no comment" # [not.a.table]
dotted.key = 2
"quoted key"."b.c" = 3

[table]
array = [  # ] not the end
  1, [2, 3],
  { inside = "]" },
]
after = 1
text = """
[not.a.table]
key = 1 \\"""
still text"""""
literal = \'\'\'
key = 2\'\'\'
last = {a = 1, b = {c = 2}}
[table.sub]
x = 1
[[entries]]
name = "a"
[entries.part]
y = 1
[[entries]]
name = "b"
'''


def test_every_kind_of_key_has_its_line() -> None:
    tomllib.loads(EXAMPLE)
    lines = key_lines(EXAMPLE)
    expected: dict[Key, int] = {
        ("top",): 2,
        ("dotted",): 3,
        ("dotted", "key"): 3,
        ("quoted key", "b.c"): 4,
        ("table",): 6,
        ("table", "array"): 7,
        ("table", "after"): 11,
        ("table", "text"): 12,
        ("table", "literal"): 16,
        ("table", "last"): 18,
        ("table", "sub", "x"): 20,
        ("entries", 0): 21,
        ("entries", 0, "name"): 22,
        ("entries", 0, "part", "y"): 24,
        ("entries", 1): 25,
        ("entries", 1, "name"): 26,
    }
    assert {key: lines.get(key) for key in expected} == expected
    assert not [key for key in lines if "not" in key or key == ("key",)]


def test_a_key_without_a_line_has_its_ancestors(tmp_path: Path) -> None:
    path = tmp_path / "pyproject.toml"
    path.write_text("[project]\nname = 'x'\n[tool.infopt.reference]\nmodel = 'm'\n")
    source = read_toml(path, ("tool", "infopt"))
    assert source is not None
    assert source.line(("reference", "model")) == 4
    assert source.line(("reference", "dtype")) == 3
    assert source.line(("candidates", "a")) == 3
    assert read_toml(path, ("tool", "other")) is None


_bare = st.text("abcXYZ019_-", min_size=1, max_size=6)
_quoted = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)
_values = st.sampled_from(
    [
        "1",
        '"#"',
        "'['",
        '"""a\n[b]\nc = 1\n"""',
        "'''\n#'''",
        "[1,\n 2, # ]\n 3]",
        '{a = "}"}',
        "1979-05-27",
    ]
)


@given(st.lists(st.tuples(_bare | _quoted, _values, st.booleans()), unique_by=lambda row: row[0]))
def test_lines_of_generated_statements(rows: list[tuple[str, str, bool]]) -> None:
    text, expected = "", {}
    for key, value, comment in rows:
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        expected[(key,)] = text.count("\n") + 1
        text += f'"{escaped}" = {value}{" # c [x]" if comment else ""}\n\n'
    assert set(tomllib.loads(text)) == {key for (key,) in expected}
    assert {key: n for key, n in key_lines(text).items() if len(key) == 1} == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = 1\nb = \n", 2),
        ("a = 1\na = 2\n", 2),
        ("[candidates.a]\n[candidates.b]\n[candidates.a]\n", 3),
        ('a = """\nnever closed\n', 3),
    ],
)
def test_syntax_errors_name_the_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "infopt.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=rf"infopt\.toml:{line}: not valid TOML"):
        read_toml(path)


def test_other_encodings_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "infopt.toml"
    path.write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(ConfigurationError, match=r"infopt\.toml:2: byte 0xe9 is no UTF-8"):
        read_toml(path)
    with pytest.raises(ConfigurationError, match=r"gone\.toml: cannot be read"):
        read_toml(tmp_path / "gone.toml")
