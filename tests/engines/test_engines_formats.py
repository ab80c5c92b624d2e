"""The table of number formats: every field is of use, every loader is there."""

from __future__ import annotations

import ast
from dataclasses import fields
from pathlib import Path

import pytest

import pytest_infopt
from pytest_infopt.engines import formats
from pytest_infopt.engines.formats import FORMATS, Format, format_of
from pytest_infopt.errors import ConfigurationError

PRODUCT = Path(pytest_infopt.__file__).parent


def fields_read() -> set[str]:
    """Attributes that the product reads of a format: of ``form``, of ``format_of(…)``, and of
    ``self`` in the class."""
    found = set()
    for path in PRODUCT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name == Format.__name__:
                found |= {word.attr for word in attributes(node) if is_named(word.value, "self")}
            if isinstance(node, ast.Attribute) and (
                is_named(node.value, "form")
                or (isinstance(node.value, ast.Call) and is_named(node.value.func, "format_of"))
            ):
                found.add(node.attr)
    return found


def attributes(node: ast.AST) -> list[ast.Attribute]:
    return [each for each in ast.walk(node) if isinstance(each, ast.Attribute)]


def is_named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


@pytest.mark.parametrize("field", [field.name for field in fields(Format)])
def test_every_field_is_read_by_the_product(field: str) -> None:
    assert field in fields_read()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_its_loader(name: str) -> None:
    form = FORMATS[name]
    assert form.name == name
    assert form.summary
    assert callable(form.load_function())


def test_options_are_checked_without_loading() -> None:
    FORMATS["gptq"].check_options({"bits": 3, "act_order": True, "calibration": "*.txt"})
    with pytest.raises(ConfigurationError, match="quantization 'gptq' 'group'; did you mean group"):
        FORMATS["gptq"].check_options({"group": 32})
    with pytest.raises(ConfigurationError, match="option of quantization 'none' 'bits'"):
        FORMATS["none"].check_options({"bits": 4})
    with pytest.raises(ConfigurationError, match="'gptq': bits is 9; give an integer from 2 to 8"):
        FORMATS["gptq"].check_options({"bits": 9})
    format_of("module:function").check_options({"whatever": 1, "bits": 9})


@pytest.mark.parametrize("name", FORMATS)
def test_every_option_of_every_format_has_values_that_are_refused(name: str) -> None:
    form = FORMATS[name]
    assert form.options is not None
    for option in form.options:
        with pytest.raises(ConfigurationError, match=f"{name!r}: {option} is <object"):
            form.check_options({option: object()})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("int4", {"bits": 9}, "bits is 9; give an integer from 2 to 8"),
        ("int4", {"bits": True}, "bits is True"),
        ("int4", {"group_size": 0}, "group_size is 0; give a whole number of 1 or more"),
        ("int4", {"group_size": -1}, "group_size is -1"),
        ("int4", {"granularity": "row"}, "granularity is 'row'; give one of tensor, channel, gr"),
        ("int4", {"granularity": "channel", "group_size": 32}, "no meaning per channel"),
        ("int4", {"granularity": "tensor", "axis": 1}, "axis has no meaning per tensor"),
        ("int8", {"axis": 2}, "axis is 2"),
        ("gptq", {"axis": 1}, "GPTQ needs scales of rows"),
        ("gptq", {"damping": 1.5}, r"damping is 1\.5; give a share from 0 to 1"),
        ("gptqmodel", {"bits": 5}, "gptqmodel packs 2, 3, 4 or 8"),
        ("smoothquant", {"alpha": float("nan")}, "alpha is nan"),
        ("llm-int8", {"threshold": -1}, "threshold is -1"),
        ("magnitude", {"sparsity": 1.5}, r"sparsity is 1\.5; give a share from 0 to 1"),
        ("magnitude", {"sparsity": "4:2"}, "'4:2'; of N:M neighbours N stay"),
        ("wanda", {"sparsity": "half"}, "sparsity is 'half'"),
        ("wanda", {"calibration_tokens": 0}, "calibration_tokens is 0"),
        ("int8", {"skip": "lm_head"}, "skip is 'lm_head'; give a list of names"),
    ],
)
def test_bad_values_are_refused_without_loading(
    name: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FORMATS[name].check_options(options)


def test_good_values_are_taken() -> None:
    for name, options in [
        ("int4", {"group_size": 128, "symmetric": True, "skip": []}),
        ("int8", {"granularity": "channel", "axis": -1}),
        ("llm-int8", {"threshold": float("inf")}),
        ("magnitude", {"sparsity": "2:4"}),
        ("wanda", {"sparsity": 0, "calibration": ["a/*.txt"]}),
        ("gptqmodel", {"group_size": -1, "bits": 8}),
    ]:
        FORMATS[name].check_options(options)


def test_a_format_is_named_or_a_loader_of_ones_own() -> None:
    own = format_of("module:function")
    assert (own.bits, own.packed, own.options, own.calibrated) == (None, False, None, False)
    with pytest.raises(ConfigurationError, match="'int9'; did you mean int"):
        format_of("int9")


def test_a_missing_library_is_told_in_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    assert FORMATS["quanto-int8"].missing() == (
        "quanto-int8 needs optimum.quanto, which is not installed; "
        "run `pip install 'pytest-infopt[quanto]'`"
    )
    assert FORMATS["int8"].missing() is None
