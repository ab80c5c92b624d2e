"""The files that pages spell out and that need no package: they do what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from documentation_pages import DOCS, files_of
from documentation_release import write_corpus, write_model
from infopt_suites.base import suite_tests
from infopt_suites.quantization import QuantizerSuite

from pytest_infopt.results.verdict import Verdict
from pytest_infopt.run.exit_status import ExitStatus

QUIET = ("-p", "no:cacheprovider", "--strict-markers")


def write_files(folder: Path, page: str) -> dict[str, str]:
    files = files_of(DOCS / page)
    for name, text in files.items():
        (folder / name).write_text(text)
    return files


def test_a_test_of_ones_own_runs_with_and_without_infopt(pytester: pytest.Pytester) -> None:
    write_model(pytester.path / "my-model")
    (pytester.path / "infopt.toml").write_text(
        '[reference]\nmodel = "./my-model"\n[candidates.int8]\nquantization = "int8"\n'
    )
    name, pace = "test_head.py", "test_pace.py"
    files = write_files(pytester.path, "how-to/own-tests.md")
    assert set(files) == {name, pace}
    code = files[name]
    # Not timed: how fast this machine is today is nothing to test.
    untimed = pytester.runpytest_inprocess(*QUIET, "--benchmark-disable", pace)
    untimed.assert_outcomes(skipped=1)
    pytester.runpytest_inprocess(*QUIET, name).assert_outcomes(passed=1)
    run = pytester.runpytest_inprocess("--infopt", "-m", "infopt", *QUIET, name)
    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines(["*largest logit error*PASS*"])
    (pytester.path / name).write_text(code.replace("at_most=0.1", "at_most=1e-9"))
    run = pytester.runpytest_inprocess("--infopt", "-m", "infopt", *QUIET, name)
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(
        ["*beyond its limit: largest logit error*", f"infopt: {Verdict.FAIL}*"]
    )


def test_an_engine_is_compared_with_itself(pytester: pytest.Pytester) -> None:
    files = write_files(pytester.path, "how-to/compare-engines.md")
    pytester.runpytest_inprocess(*QUIET, *files).assert_outcomes(passed=1, xfailed=1)
    code = files["test_serving.py"]
    (pytester.path / "test_serving.py").write_text(code.replace("[token]", "[token + hit]"))
    run = pytester.runpytest_inprocess(*QUIET, "test_serving.py")
    run.assert_outcomes(failed=1)
    run.stdout.fnmatch_lines(["*not equivalent along cold/warm: 8 of 8 prompts part*"])


def test_the_quantizer_conforms_until_it_is_broken(pytester: pytest.Pytester) -> None:
    ((name, code),) = write_files(pytester.path, "tutorial/check-a-component.md").items()
    outcomes = pytester.runpytest_inprocess(*QUIET, name).parseoutcomes()
    assert outcomes.keys() <= {"passed", "skipped"}
    # The page's quantizer claims nothing and has one scale a tensor: what needs a claim, or groups,
    # has no case to try and is skipped, where it once passed.
    assert outcomes["passed"] == 14
    assert sum(outcomes.values()) == len(suite_tests(QuantizerSuite))
    assert code.count(".round()") == 1  # what the page tells the reader to remove
    (pytester.path / name).write_text(code.replace(".round()", ""))
    run = pytester.runpytest_inprocess(*QUIET, name)
    run.stdout.fnmatch_lines(["*smallest case found:*", "FAILED *rounding_is_unbiased*"])


def test_a_loader_of_ones_own_loads(pytester: pytest.Pytester) -> None:
    write_model(pytester.path / "my-model")
    write_corpus(pytester.path / "texts.jsonl")
    write_files(pytester.path, "how-to/add-a-loader.md")
    with (pytester.path / "infopt.toml").open("a") as stream:
        stream.write('[corpus]\nfiles = ["texts.jsonl"]\n[budgets]\nkl_mean = 1\n')
        stream.write('top1_agreement = "off"\nperplexity_ratio = "off"\n')
    run = pytester.runpytest_inprocess("--infopt", "-k", "quality", *QUIET)
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines(["rounded: PASS"])
