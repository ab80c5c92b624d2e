"""The shipped example of ``[implementations]``: a careful quantizer and its careless twin."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from pytest_infopt.run.exit_status import ExitStatus

FILE = Path(__file__).parents[2] / "examples" / "conformance" / "infopt.toml"


@pytest.mark.slow
def test_the_example_tells_the_careful_quantizer_from_the_careless_one(
    pytester: pytest.Pytester,
) -> None:
    reports = pytester.path / "reports"
    words = [f"--infopt-config={FILE}", f"--infopt-report-dir={reports}"]
    run = pytester.runpytest_subprocess(
        "--infopt", "-n2", *words, "--pyargs", "infopt_suites.gates"
    )
    assert run.ret == ExitStatus.FAILED
    (path,) = (reports / "runs").glob("*/result.json")
    items = {item["candidate"]: item for item in json.loads(path.read_text())["items"]}
    assert {name: item["verdict"] for name, item in items.items()} == {
        "quantizer careful": "PASS",
        "quantizer careless": "FAIL",
    }
    run.stdout.fnmatch_lines(["*smallest case found: float32 weight of shape (1, 1)*"])
    again = pytester.runpytest_subprocess(
        *shlex.split(items["quantizer careless"]["reproduce"])[1:]
    )
    assert again.ret == ExitStatus.FAILED
    again.stdout.fnmatch_lines(["quantizer careless: FAIL", "infopt: FAIL (1 FAIL)*"])
