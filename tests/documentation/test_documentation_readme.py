"""The README's examples, executed: its configuration, its commands, its test."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny_models import make_model, make_tokenizer

from pytest_infopt.configuration import load_release
from pytest_infopt.engines.formats import CALIBRATION, FORMATS, PLAIN
from pytest_infopt.naming import registered
from pytest_infopt.options import OPTIONS
from pytest_infopt.results.verdict import Verdict
from pytest_infopt.run.exit_status import ExitStatus

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert found, f"the README has no {language} block"
    return [str(block) for block in found]


def commands() -> list[list[str]]:
    lines = [line[2:] for block in blocks("console") for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("pytest")]


def test_the_configuration_is_accepted(tmp_path: Path) -> None:
    text, _, _ = blocks("toml")
    (tmp_path / "infopt.toml").write_text(text)
    release = load_release(tmp_path)
    assert [candidate.name for candidate in release.candidates] == ["nf4", "distilled"]
    nf4, student = release.candidates
    assert nf4.budgets["top1_agreement"].limit == 0.9
    assert nf4.budgets["perplexity_ratio"].limit == pytest.approx(1.04, rel=1e-12)
    assert student.budgets["ttft_p95"].limit == pytest.approx(0.2, rel=1e-12)
    assert "causality_error_ratio" not in student.budgets


def test_the_table_of_quantizations_is_that_of_the_loaders(tmp_path: Path) -> None:
    rows = re.findall(r"^\| (`[^|]+) \|[^|]+\|([^|]*)\|([^|]*)\|$", README, flags=re.MULTILINE)
    named = {name: needs for names, _, needs in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert set(FORMATS) <= set(named)
    for name, form in FORMATS.items():
        extra = form.extra or form.module
        assert f"[{extra}]" in named[name] if extra else "[" not in named[name], name
    options = " ".join(options for _, options, _ in rows)
    for form in FORMATS.values():
        for option in (form.options or frozenset()) - PLAIN - CALIBRATION:
            assert f"`{option}`" in README, option
    assert "grid" in options
    text = blocks("toml")[1]
    (tmp_path / "infopt.toml").write_text('[reference]\nmodel = "./my-model"\n' + text)
    (candidate,) = load_release(tmp_path).candidates
    FORMATS[candidate.source.quantization].check_options(candidate.source.options)


def test_the_quantizers_example_gates_every_method_side_by_side() -> None:
    release = load_release(ROOT / "examples" / "quantizers")
    quantizations = {candidate.source.quantization for candidate in release.candidates}
    assert {"int8", "int4", "nf4", "gptq", "awq", "fp8"} <= quantizations
    for candidate in release.candidates:
        FORMATS[candidate.source.quantization].check_options(candidate.source.options)


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_print_their_plan(command: list[str], pytester: pytest.Pytester) -> None:
    run = pytester.runpytest_inprocess(*command[1:], "--collect-only", "-p", "no:cacheprovider")
    assert run.ret == pytest.ExitCode.OK
    run.stdout.fnmatch_lines(["reference: *", "*test_quality*"])


def test_the_test_runs_with_and_without_infopt(pytester: pytest.Pytester) -> None:
    model = pytester.path / "model"
    make_model("llama").save_pretrained(model)
    make_tokenizer().save_pretrained(model)
    (pytester.path / "infopt.toml").write_text(
        f'[reference]\nmodel = "{model}"\n[candidates.int8]\nquantization = "int8"\n'
    )
    code, _ = blocks("python")
    path = pytester.makepyfile(test_readme=code)
    plain = ["-p", "no:cacheprovider", "--strict-markers", str(path)]
    pytester.runpytest_inprocess(*plain).assert_outcomes(passed=1)
    run = pytester.runpytest_inprocess("--infopt", *plain)
    run.assert_outcomes(passed=1)
    run.stdout.fnmatch_lines(["*largest logit error*PASS*"])
    broken = code.replace("at_most=0.1", "at_most=1e-9")
    path.write_text(broken)
    run = pytester.runpytest_inprocess("--infopt", *plain)
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(
        ["*beyond its limit: largest logit error*", f"infopt: {Verdict.FAIL}*"]
    )


def test_the_quantizer_of_the_example_conforms(pytester: pytest.Pytester) -> None:
    _, code = blocks("python")
    path = pytester.makepyfile(test_readme=code)
    run = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--strict-markers", str(path))
    outcomes = run.parseoutcomes()
    assert outcomes["passed"] >= 15
    assert outcomes.keys() <= {"passed", "skipped"}
    path.write_text(code.replace(".round()", ""))
    run = pytester.runpytest_inprocess("-p", "no:cacheprovider", str(path))
    run.stdout.fnmatch_lines(["*smallest case found:*", "FAILED *rounding_is_unbiased*"])


def test_implementations_of_the_example_are_read(tmp_path: Path) -> None:
    _, _, text = blocks("toml")
    (tmp_path / "infopt.toml").write_text(text)
    release = load_release(tmp_path)
    assert [each.topic for each in release.implementations] == ["quantizer", "packing"]


def test_every_suite_is_in_the_table() -> None:
    for topic, entry in registered("infopt.suites").items():
        assert f"| `{entry.attr}` | `{topic}` |" in README


def test_every_option_named_exists() -> None:
    named = set(re.findall(r"--infopt[a-z-]*", README))
    assert named <= {option.flag for option in OPTIONS.values()}


@pytest.mark.parametrize("verdict", ["PASS", "FAIL"])
def test_both_runs_are_shown(verdict: str) -> None:
    assert any(f"infopt: {verdict} (" in block for block in blocks("text"))


def test_exit_statuses_are_the_codes_own() -> None:
    for status in (ExitStatus.INCONCLUSIVE, ExitStatus.HARNESS_ERROR):
        assert re.search(rf"^\| {int(status)} \|", README, flags=re.MULTILINE), status


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
