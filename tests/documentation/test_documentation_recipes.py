"""The recipes for gates, metrics, engines, suites and reports, followed literally.

Each page spells out a package of a third party. It is written to disk from the page, made known by
a dist-info of its own, as an installed package is, and run. Nothing in pytest_infopt is touched.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from documentation_pages import DOCS, files_of
from documentation_release import write_corpus, write_model

from pytest_infopt.configuration import fingerprint, load_release
from pytest_infopt.run.exit_status import ExitStatus

RECIPES = ("add-a-gate", "add-a-metric", "add-a-report", "add-a-suite", "add-an-engine")
QUIET = ("-p", "no:cacheprovider", "--strict-markers")
OTHER_FILES = ("infopt.toml", "test_")  # the rest of a page is its package


class Recipe:
    """Pages' files below ``pytester.path``: packages in site/, all others beside it."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.folder = pytester.path
        self.site = pytester.path / "site"
        self._pytester = pytester

    def follow(self, page: str) -> None:
        """Write the page's files; later pages replace files of earlier ones."""
        for name, text in files_of(DOCS / "how-to" / f"{page}.md").items():
            own = name.startswith(OTHER_FILES)
            path = (self.folder if own else self.site) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self._register()
        self._pytester.syspathinsert(self.site)

    def _register(self) -> None:
        """What ``pip install -e .`` would leave: the package's name and entry points."""
        project = tomllib.loads((self.site / "pyproject.toml").read_text())["project"]
        metadata = self.site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        groups = [
            "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in points.items())])
            for group, points in project["entry-points"].items()
        ]
        (metadata / "entry_points.txt").write_text("\n\n".join(groups) + "\n")

    def add(self, text: str) -> None:
        """Lines at the end of infopt.toml."""
        with (self.folder / "infopt.toml").open("a") as stream:
            stream.write(text)

    def change(self, old: str, new: str, name: str = "infopt.toml") -> None:
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new))

    def run(self, *arguments: str) -> pytest.RunResult:
        return self._pytester.runpytest_inprocess("--infopt", *QUIET, *arguments)

    def reports(self) -> Path:
        """The folder of the last run."""
        return max((self.folder / ".infopt" / "runs").iterdir())


@pytest.fixture
def recipe(pytester: pytest.Pytester) -> Recipe:
    return Recipe(pytester)


@pytest.fixture
def gate(recipe: Recipe) -> Recipe:
    """The entropy gate on a tiny release."""
    recipe.follow("add-a-gate")
    write_model(recipe.folder / "my-model")
    write_corpus(recipe.folder / "texts.jsonl")
    recipe.add('\n[corpus]\nfiles = ["texts.jsonl"]\n')
    return recipe


def test_a_gate_is_planned_run_and_reported(gate: Recipe) -> None:
    plan = gate.run("--collect-only")
    assert plan.ret == ExitStatus.PASSED
    plan.stdout.fnmatch_lines(["  entropy: entropy_change*0.1 nats*", "*test_entropy[[]int8[]]*"])
    run = gate.run("-k", "entropy", "--junitxml=junit.xml")
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines([" entropy, *PASS", "  entropy_change *PASS"])
    rows = json.loads((gate.reports() / "result.json").read_text())["gates"]
    assert [(row["gate"], row["metric"]) for row in rows] == [("entropy", "entropy_change")]
    assert rows[0]["clusters"] <= 32  # [entropy] of the page's infopt.toml
    assert "entropy" in (gate.reports() / "summary.md").read_text()
    assert "entropy" in (gate.folder / "junit.xml").read_text()


def test_a_gate_fails_on_evidence(gate: Recipe) -> None:
    gate.change('entropy_change = "0.1 nats"', "entropy_change = 1e-9")
    run = gate.run("-k", "entropy")
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["*FAIL entropy_change*", "*infopt_entropy.test_gate_entropy*"])


def test_a_wrong_key_of_the_gates_table_is_named(gate: Recipe) -> None:
    gate.change("documents = 32", "documnts = 32")
    run = gate.run("--collect-only")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*infopt.toml:*documnts*did you mean documents*"])


def test_the_gates_settings_are_part_of_the_fingerprint(gate: Recipe) -> None:
    before = fingerprint(load_release(gate.folder), gate.folder)
    gate.change("documents = 32", "documents = 33")
    assert fingerprint(load_release(gate.folder), gate.folder) != before


def test_a_gates_spec_imports_no_torch(gate: Recipe) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(gate.site)!r})\n"
        "import infopt_entropy.gate, infopt_entropy.test_gate_entropy\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_metric_takes_two_places(gate: Recipe) -> None:
    gate.follow("add-a-metric")
    gate.change('entropy_change = "0.1 nats"', "entropy_change_max = 5")
    run = gate.run("-k", "entropy")
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines(["  entropy_change *", "  entropy_change_max *PASS"])


def test_an_engine_is_gated_as_far_as_it_reaches(recipe: Recipe) -> None:
    recipe.follow("add-an-engine")
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
    (recipe.folder / "pairs.txt").write_text(" ".join(words * 20))
    with (recipe.folder / "texts.jsonl").open("w") as stream:
        for i in range(60):
            text = " ".join(words[(i * j) % len(words)] for j in range(1, 12))
            stream.write(json.dumps({"id": f"d{i}", "text": f"{text} {i}"}) + "\n")
    run = recipe.run("-k", "quality")
    assert run.ret == ExitStatus.PASSED
    run = recipe.run("-k", "quality or equivalence")
    assert run.ret == ExitStatus.INCONCLUSIVE  # asked for, and not run
    run.stdout.fnmatch_lines(["*equivalence of smoother: not applicable to engine*full logits*"])
    assert recipe.run("-k", "quality and not equivalence").ret == ExitStatus.PASSED
    recipe.change('engine = "bigram"\nmodel = "./pairs.txt"\noptions', 'engine = "bigrm"\noptions')
    run = recipe.run("--collect-only")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*infopt.toml:*bigrm*did you mean bigram*"])


def test_a_suite_is_reached_by_subclass(recipe: Recipe, pytester: pytest.Pytester) -> None:
    recipe.follow("add-a-suite")
    run = pytester.runpytest_inprocess(*QUIET, "test_top_k.py")
    run.assert_outcomes(passed=2)
    recipe.change("-logits[i]", "logits[i]", "test_top_k.py")
    run = pytester.runpytest_inprocess(*QUIET, "test_top_k.py")
    run.stdout.fnmatch_lines(["*smallest case found:*", "FAILED *the_largest_are_kept*"])


def test_a_suite_is_reached_by_configuration(recipe: Recipe) -> None:
    recipe.follow("add-a-suite")
    run = recipe.run()
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines(
        ["top_k sorted: PASS", "*1 passed, 1 not offered", "*stable not claimed*"]
    )
    recipe.change("top_k.sorted", "top_kk.sorted")
    run = recipe.run("--collect-only")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*infopt.toml:*top_kk*did you mean top_k*"])


def test_a_report_is_written_with_the_others(recipe: Recipe) -> None:
    recipe.follow("add-a-report")
    recipe.follow("add-a-suite")  # something quick to report
    run = recipe.run()
    assert run.ret == ExitStatus.PASSED
    with (recipe.reports() / "gates.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["gate"] for row in rows} == {"conformance"}
    assert {row["verdict"] for row in rows} == {"PASS", ""}
    assert (recipe.reports() / "result.json").is_file()


def test_a_report_may_print_lines(recipe: Recipe) -> None:
    recipe.follow("add-a-report")
    recipe.follow("add-a-suite")
    module = recipe.site / "infopt_csv" / "__init__.py"
    lines = "lines=lambda run, width: [f'{len(run.gates)} rows in gates.csv'[:width]]"
    module.write_text(module.read_text().replace("write=write", f"write=write, {lines}"))
    recipe.run().stdout.fnmatch_lines(["2 rows in gates.csv"])


def test_a_report_that_breaks_is_a_harness_error_in_the_others(recipe: Recipe) -> None:
    recipe.follow("add-a-report")
    recipe.follow("add-a-suite")
    module = recipe.site / "infopt_csv" / "__init__.py"
    module.write_text(module.read_text().replace("rows.writerow(", "rows.write_row("))
    run = recipe.run()
    assert run.ret == ExitStatus.HARNESS_ERROR
    run.stdout.fnmatch_lines(["*report csv failed: AttributeError*", "infopt: ERROR *"])
    assert (recipe.reports() / "result.json").is_file()


@pytest.mark.slow
def test_recipes_are_typed(recipe: Recipe) -> None:
    """mypy --strict sees through the proxy of a measure's methods."""
    for page in ("add-a-gate", "add-an-engine", "add-a-report"):
        recipe.follow(page)
    require_typed(recipe, "infopt_entropy", "infopt_bigram", "infopt_csv")
    recipe.follow("add-a-metric")
    require_typed(recipe, "infopt_entropy")


def require_typed(recipe: Recipe, *packages: str) -> None:
    names = [word for package in packages for word in ("-p", package)]
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={recipe.folder}", *names]
    run = subprocess.run(command, cwd=recipe.site, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
