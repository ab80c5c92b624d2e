"""An engine of another package under the gates: what it can is gated, what it cannot is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import second_engine
from external_package import write_package

from pytest_infopt.run.exit_status import ExitStatus

FILE = """
[reference]
engine = "bigram"
model = "./model"
[candidates.same]
options.damage = 0.0
[candidates.same.budgets]
greedy_mismatches = 0
[candidates.damaged]
options.damage = 3.0
"""


def test_gates_ask_an_engine_only_what_it_can(pytester: pytest.Pytester, result) -> None:
    source = Path(second_engine.__file__).read_text(encoding="utf-8")
    write_package(
        pytester,
        "infopt_bigram",
        {"engine.py": source},
        {"infopt.engines": {"bigram": "infopt_bigram.engine:ENGINE"}},
    )
    (pytester.path / "model").mkdir()
    (pytester.path / "model" / "text.txt").write_text(source)
    (pytester.path / "infopt.toml").write_text(FILE)
    options = ["-p", "no:cacheprovider", "-k", "quality or equivalence", "--junitxml=junit.xml"]
    words = ["--infopt", *options, "--pyargs", "infopt_suites.gates"]
    reason = "engine 'bigram' lacks: full logits, batches"
    plan = pytester.runpytest_subprocess(*words, "--collect-only")
    plan.stdout.fnmatch_lines([f"  equivalence: NOT RUN: {reason}"])
    plan.stdout.no_fnmatch_line("*missing: *unknown option*")
    run = pytester.runpytest_subprocess(*words)
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["*equivalence, *NOT RUN", f"*{reason}*"])
    summary = max((pytester.path / ".infopt" / "runs").glob("*/summary.md")).read_text()
    assert "NOT RUN" in summary
    assert reason in (pytester.path / "junit.xml").read_text().replace("&#x27;", "'")
    items = result()["items"]
    assert {(item["candidate"], item["gate"]): item["not_run"] for item in items} == {
        ("same", "quality"): "",
        ("same", "equivalence"): reason,
        ("damaged", "quality"): "",
    }
    assert {(item["candidate"], item["gate"]): item["verdict"] for item in items} == {
        ("same", "quality"): "PASS",
        ("same", "equivalence"): "INCONCLUSIVE",
        ("damaged", "quality"): "FAIL",
    }
    told = "not applicable to engine bigram: equivalence needs full logits, batches; "
    assert any(told in line for line in result()["not_applicable"])
