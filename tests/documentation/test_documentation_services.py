"""The action and the jobs that the pages show: their schemas, and what the action's steps do.

The schemas are those of schemastore.org, as check-jsonschema carries them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from documentation_pages import ROOT, blocks

from pytest_infopt.console.comment import MARKER
from pytest_infopt.report.document import write_result
from pytest_infopt.results.run_result import RunResult

needs_schemas = pytest.mark.skipif(
    find_spec("check_jsonschema") is None, reason="not installed: check-jsonschema"
)
GH = """#!/bin/sh
echo "$@" >> calls
case "$*" in *--paginate*) cat earlier;; esac
"""


def action() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    return found


def block(title: str) -> Any:
    (found,) = (each for each in blocks("yaml") if each.title == title)
    # YAML 1.1 reads the key "on" as a truth value; the schemas mean the word.
    return {
        "on" if key is True else key: value for key, value in yaml.safe_load(found.text).items()
    }


@needs_schemas
@pytest.mark.parametrize(
    ("schema", "document"),
    [
        ("github-actions", action),
        ("github-workflows", lambda: block(".github/workflows/release.yml")),
        ("gitlab-ci", lambda: block(".gitlab-ci.yml")),
    ],
)
def test_services_read_what_we_show(schema: str, document: Any) -> None:
    folder = files("check_jsonschema").joinpath("builtin_schemas", "vendor")
    read = json.loads(folder.joinpath(f"{schema}.json").read_text(encoding="utf-8"))
    validator = jsonschema.validators.validator_for(read)
    assert [error.message for error in validator(read).iter_errors(document())] == []


def test_the_workflow_gives_the_action_inputs_that_it_has() -> None:
    (step,) = (
        s for s in block(".github/workflows/release.yml")["jobs"]["gate"]["steps"] if "with" in s
    )
    assert step["with"].keys() <= action()["inputs"].keys()


@pytest.mark.parametrize("earlier", ["", "7\n41\n"])
def test_the_actions_comment_is_made_once_and_then_edited(earlier: str, tmp_path: Path) -> None:
    run = tmp_path / ".infopt" / "runs" / "r1"
    run.mkdir(parents=True)
    (run / "journal.jsonl").touch()
    write_result(RunResult("1", "", "r1", {}, {"name": "r"}, [], [], 1.0), run / "result.json")
    (tmp_path / "earlier").write_text(earlier)
    for name, text in (
        ("gh", GH),
        ("infopt", f'#!/bin/sh\nexec "{sys.executable}" -c '
                   '"from pytest_infopt.console import main; import sys; sys.exit(main())" "$@"\n'),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (step,) = (s for s in action()["runs"]["steps"] if "infopt comment" in s.get("run", ""))
    settings = {"AGAINST": str(run), "COMMENTS": "repos/o/r/issues", "NUMBER": "3"}
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=tmp_path, env={**os.environ, **settings, "PATH": path}, check=True,
    )  # fmt: skip
    text = (tmp_path / "infopt-comment.md").read_text(encoding="utf-8")
    assert text.startswith(MARKER)
    assert "Against run r1" in text
    last = (tmp_path / "calls").read_text().splitlines()[-1]
    expected = (
        "PATCH repos/o/r/issues/comments/41" if earlier else "POST repos/o/r/issues/3/comments"
    )
    assert last == f"api --method {expected} --field body=@infopt-comment.md"


def test_the_actions_gate_hands_its_arguments_on(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done > calls\n')
    (tmp_path / "python").chmod(0o755)
    (step,) = (s for s in action()["runs"]["steps"] if "--junitxml" in s.get("run", ""))
    for given, passed in (("", []), ("-k  'a;b' $(x)", ["-k", "'a;b'", "$(x)"])):
        environment = {"ARGUMENTS": given, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environment, check=True)
        called = (tmp_path / "calls").read_text().splitlines()
        assert called == ["-m", "pytest", "--infopt", "--junitxml=infopt-junit.xml", *passed]
