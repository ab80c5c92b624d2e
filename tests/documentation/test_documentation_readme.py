"""What README and the hand-written pages say of the product, against the product."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import infopt_suites
import pytest
from documentation_pages import DOCS, README, ROOT, blocks_of

from pytest_infopt import __version__
from pytest_infopt.configuration import load_release
from pytest_infopt.engines.formats import format_of
from pytest_infopt.run.exit_status import ExitStatus

sys.path.insert(0, str(DOCS / "generate"))
import product  # the generator's own view of what was measured

sys.path.pop(0)

TEXT = README.read_text(encoding="utf-8")
MOST_LINES = 200
REPORT = DOCS / "how-to" / "read-a-report.md"


def test_the_readme_is_short() -> None:
    assert TEXT.count("\n") <= MOST_LINES


def test_the_configuration_means_what_the_page_says(tmp_path: Path) -> None:
    text = next(
        b.text for b in blocks_of(DOCS / "how-to/gate-your-model.md") if b.language == "toml"
    )
    (tmp_path / "infopt.toml").write_text(text)
    release = load_release(tmp_path)
    assert [candidate.name for candidate in release.candidates] == ["nf4", "distilled"]
    nf4, student = release.candidates
    assert nf4.budgets["top1_agreement"].limit == 0.9
    assert nf4.budgets["perplexity_ratio"].limit == pytest.approx(1.04, rel=1e-12)
    assert student.budgets["ttft_p95"].limit == pytest.approx(0.2, rel=1e-12)
    assert "causality_error_ratio" not in student.budgets


def test_the_quantization_example_sets_options_that_its_loader_knows(tmp_path: Path) -> None:
    page = DOCS / "how-to" / "choose-a-quantization.md"
    (text, _) = (block.text for block in blocks_of(page) if block.language == "toml")
    (tmp_path / "infopt.toml").write_text('[reference]\nmodel = "./my-model"\n' + text)
    (candidate,) = load_release(tmp_path).candidates
    format_of(candidate.source.quantization).check_options(candidate.source.options)


def test_the_quantizers_example_gates_every_method_side_by_side() -> None:
    release = load_release(ROOT / "examples" / "quantizers")
    quantizations = {candidate.source.quantization for candidate in release.candidates}
    assert {"int8", "int4", "nf4", "gptq", "awq", "fp8"} <= quantizations
    for candidate in release.candidates:
        format_of(candidate.source.quantization).check_options(candidate.source.options)


def test_every_example_is_in_the_table() -> None:
    text = (DOCS / "how-to" / "gate-your-model.md").read_text(encoding="utf-8")
    for path in (ROOT / "examples").glob("*/infopt.toml"):
        assert f"\n| `{path.parent.name}` |" in text


def test_implementations_of_the_example_are_read(tmp_path: Path) -> None:
    page = DOCS / "how-to" / "check-components.md"
    (text,) = (block.text for block in blocks_of(page) if block.language == "toml")
    (tmp_path / "infopt.toml").write_text(text)
    release = load_release(tmp_path)
    topics = [each.topic for each in release.implementations]
    assert topics == ["quantizer", "packing", "activation_quantizer"]


def test_every_suite_is_in_the_table() -> None:
    rows = dict(re.findall(r"^\| `(\w+Suite)` \| `(\w+)` \|", TEXT, flags=re.MULTILINE))
    suites = {name: getattr(infopt_suites, name) for name in infopt_suites.__all__}
    topics = {n: s.topic for n, s in suites.items() if getattr(s, "topic", "")}
    assert rows == topics


@pytest.mark.parametrize("page", [README, REPORT], ids=lambda page: page.stem)
@pytest.mark.parametrize("verdict", ["PASS", "FAIL"])
def test_both_runs_are_shown(page: Path, verdict: str) -> None:
    texts = [block.text for block in blocks_of(page) if block.language == "text"]
    assert any(f"infopt: {verdict} (" in text for text in texts)


def test_the_readmes_runs_are_parts_of_the_whole_ones() -> None:
    """Figures are replaced in both places, or the shortened run is of another run."""
    whole = REPORT.read_text(encoding="utf-8").splitlines()
    for block in blocks_of(README):
        if block.language == "text":
            for line in block.text.splitlines():
                assert line in whole or line.startswith("["), line


def test_the_readmes_comparison_is_the_pages() -> None:
    page = (DOCS / "how-to" / "choose-a-quantization.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* MiB \| .*x \[.*$", TEXT, flags=re.MULTILINE)
    assert rows
    assert rows == [row for row in page.splitlines() if row in rows]


def test_exit_statuses_are_the_codes_own() -> None:
    rows = re.findall(r"^\| (\d+) \|", TEXT, flags=re.MULTILINE)
    assert set(rows) == {str(int(status)) for status in ExitStatus}


def test_the_changelog_has_this_version_and_takes_the_next() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    settings = project["tool"]["towncrier"]
    top = text.partition(settings["start_string"])[2]
    assert top.lstrip().startswith(f"## {__version__} (")
    kinds = {kind["directory"] for kind in settings["type"]}
    for path in (ROOT / settings["directory"]).glob("*.*.md"):
        assert path.suffixes[-2].removeprefix(".") in kinds, path.name


@pytest.mark.slow
def test_the_failing_example_fails(pytester: pytest.Pytester) -> None:
    run = pytester.runpytest_subprocess(
        "--infopt",
        f"--infopt-config={ROOT / 'examples' / 'failing' / 'infopt.toml'}",
        *["--pyargs", "infopt_suites.gates"],
    )
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["*FAIL kl_mean*", "*reproduce:*"])


def test_a_budget_of_ones_own_works_both_ways(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_high(infopt_budget):\n"
        "    infopt_budget('share kept', 0.5, at_least=0.4)\n"
        "def test_low(infopt_budget):\n"
        "    infopt_budget('share kept', 0.3, at_least=0.4)\n"
        "def test_neither(infopt_budget):\n"
        "    infopt_budget('share kept', 0.3)\n"
    )
    run = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    run.assert_outcomes(passed=1, failed=2)
    run.stdout.fnmatch_lines(["*share kept 0.3, ≥ 0.4*", "*either at_most or at_least*"])


def test_the_readme_has_the_totals_of_the_matrix_of_faults() -> None:
    said = product.faults().in_words()
    assert said in " ".join(TEXT.split()), "run python tests/faults/see.py"
