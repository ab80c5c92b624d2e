"""Every option from every source, through a real pytest start-up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.options import OPTIONS, locate_model, resolve, settings
from pytest_infopt.release import Statistics

# Name, words of the command line, ini lines, what each means. Paths are relative to the directory.
CASES: dict[str, tuple[list[str], str, Any, Any]] = {
    "infopt": (["--infopt"], "infopt = true", True, True),
    "config": (["--infopt-config", "a.toml"], "infopt_config = b.toml", "a.toml", "b.toml"),
    "reference": (["--infopt-reference", "org/a"], "infopt_reference = org/b", "org/a", "org/b"),
    "candidate": (
        ["--infopt-candidate", "int8", "--infopt-candidate=nf4@org/a"],
        "infopt_candidate = int4 org/b",
        ("int8", "nf4@org/a"),
        ("int4", "org/b"),
    ),
    "compare_techniques": (["--infopt-compare-techniques"], "", True, None),
    "device": (["--infopt-device", "cuda:1"], "infopt_device = cpu", "cuda:1", "cpu"),
    "report_dir": (["--infopt-report-dir", "a"], "infopt_report_dir = b", "a", "b"),
    "baseline": (["--infopt-baseline", "a.json"], "infopt_baseline = b.json", "a.json", "b.json"),
    "baseline_update": (["--infopt-baseline-update"], "infopt_baseline_update = yes", True, True),
    "baseline_loosen": (["--infopt-baseline-loosen", "new chip"], "", "new chip", None),
    "calibrate": (["--infopt-calibrate"], "infopt_calibrate = yes", True, True),
    "seed": (["--infopt-seed", "7"], "infopt_seed = 8", 7, 8),
    "budget_seconds": (["--infopt-budget-seconds", "2.5"], "infopt_budget_seconds = 3", 2.5, 3.0),
    "policy": (["--infopt-policy", "warn"], "infopt_policy = warn", "warn", "warn"),
    "resume": (["--infopt-resume", "run-1"], "infopt_resume = run-2", "run-1", "run-2"),
    "redis_url": (
        ["--infopt-redis-url", "redis://a:1/0"],
        "infopt_redis_url = unix:///b",
        "redis://a:1/0",
        "unix:///b",
    ),
    "timeout": (["--infopt-timeout", "60"], "infopt_timeout = 61", 60.0, 61.0),
}
PATHS = {"config", "report_dir", "baseline"}


def parse(pytester: pytest.Pytester, *words: str, ini: str = "") -> pytest.Config:
    """A config as pytest makes it, with the plugin's options and nothing else of the plugin."""
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makeconftest(
        "from pytest_infopt.options import add_options\n"
        "def pytest_addoption(parser): add_options(parser)\n"
    )
    return pytester.parseconfig("-p", "no:infopt", *words)


def expected(pytester: pytest.Pytester, name: str, value: Any) -> Any:
    return pytester.path / value if name in PATHS else value


def test_every_option_has_a_case() -> None:
    assert set(CASES) == set(OPTIONS)


@pytest.mark.parametrize("name", CASES)
def test_default_comes_last(pytester: pytest.Pytester, name: str) -> None:
    config = parse(pytester)
    assert resolve(config, name) == OPTIONS[name].default
    assert resolve(config, name, configured="from the file") == "from the file"


@pytest.mark.parametrize("name", [name for name in CASES if OPTIONS[name].ini])
def test_ini_wins_over_the_file(pytester: pytest.Pytester, name: str) -> None:
    _, ini, _, value = CASES[name]
    config = parse(pytester, ini=ini)
    resolved = resolve(config, name, configured="from the file")
    assert resolved == expected(pytester, name, value)
    assert type(resolved) is type(expected(pytester, name, value))


@pytest.mark.parametrize("name", CASES)
def test_command_line_wins_over_ini(pytester: pytest.Pytester, name: str) -> None:
    words, ini, value, _ = CASES[name]
    config = parse(pytester, *words, ini=ini)
    assert resolve(config, name, configured="from the file") == expected(pytester, name, value)
    assert resolve(config, name, marker="from the marker") == "from the marker"


def test_unset_flag_of_the_ini_file_does_not_hide_the_file(pytester: pytest.Pytester) -> None:
    assert resolve(parse(pytester, ini="infopt = false"), "infopt", configured=True) is False


def test_loosening_cannot_be_made_permanent(pytester: pytest.Pytester) -> None:
    assert not OPTIONS["baseline_loosen"].ini
    config = parse(pytester)
    with pytest.raises(ValueError, match="unknown configuration value"):
        config.getini("infopt_baseline_loosen")


BAD = {
    "device": "gpu",
    "seed": "-1",
    "budget_seconds": "0",
    "policy": "ignore",
    "timeout": "inf",
    "redis_url": "localhost:6379",
    "resume": "tests/",
    "config": " ",
    "reference": " ",
    "candidate": "int8@",
    "baseline_loosen": " ",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_value_is_named_with_option_and_remedy(pytester: pytest.Pytester, name: str) -> None:
    option, value = OPTIONS[name], BAD[name]
    config = parse(pytester, f"{option.flag}={value}")
    with pytest.raises(pytest.UsageError) as raised:
        resolve(config, name)
    for part in (option.flag, repr(value), option.allowed):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "gpu"),
        ("policy", "ignore"),
        ("seed", "-3"),
        ("seed", "many"),
        ("timeout", "soon"),
    ],
)
def test_bad_ini_value_is_named_with_file(pytester: pytest.Pytester, name: str, value: str) -> None:
    config = parse(pytester, ini=f"{OPTIONS[name].key} = {value}")
    with pytest.raises(pytest.UsageError) as raised:
        resolve(config, name)
    for part in (OPTIONS[name].key, "tox.ini", value, OPTIONS[name].allowed):
        assert part in str(raised.value)


def test_bad_flag_of_the_ini_file_is_a_usage_error(pytester: pytest.Pytester) -> None:
    with pytest.raises(pytest.UsageError, match="infopt_baseline_update"):
        resolve(parse(pytester, ini="infopt_baseline_update = perhaps"), "baseline_update")


def test_resume_alone_means_the_latest_run(pytester: pytest.Pytester) -> None:
    assert resolve(parse(pytester, "--infopt-resume"), "resume") == "latest"


def test_resume_does_not_swallow_a_path(pytester: pytest.Pytester) -> None:
    pytester.mkdir("checks")
    with pytest.raises(pytest.UsageError, match="--infopt-resume=latest"):
        resolve(parse(pytester, "--infopt-resume", "checks"), "resume")


def test_settings_hold_what_was_given_and_nothing_else(pytester: pytest.Pytester) -> None:
    found = settings(parse(pytester, "--infopt-seed=3", ini="infopt_policy = warn"))
    assert (found.seed, found.policy) == (3, "warn")
    assert (found.reference, found.candidate, found.budget_seconds, found.config) == (None,) * 4


def test_defaults_agree_with_the_release() -> None:
    assert OPTIONS["seed"].default == Statistics.seed
    assert OPTIONS["budget_seconds"].default == Statistics.budget_seconds
    assert OPTIONS["policy"].default == Statistics.policy
    assert OPTIONS["timeout"].default == Statistics.timeout_seconds


def test_models_that_are_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "org" / "model").mkdir(parents=True)
    (tmp_path / "int8").mkdir()
    assert locate_model("org/model", tmp_path) == str(tmp_path / "org" / "model")
    assert locate_model("org/other", tmp_path) == "org/other"
    assert locate_model("./gone", tmp_path) == str(tmp_path / "gone")
    assert locate_model("int8", tmp_path) == str(tmp_path / "int8")
    assert locate_model("int8", tmp_path, bare_is_path=False) == "int8"
    assert locate_model("embedded:smollm2", tmp_path) == "embedded:smollm2"


def test_candidate_paths_are_found_behind_a_format(pytester: pytest.Pytester) -> None:
    model = pytester.mkdir("int8")
    config = parse(pytester, "--infopt-candidate=int8", "--infopt-candidate=nf4@./int8")
    assert resolve(config, "candidate") == ("int8", f"nf4@{model}")


def test_help_lists_every_option(pytester: pytest.Pytester) -> None:
    parse(pytester)
    result = pytester.runpytest("-p", "no:infopt", "--help")
    text = result.stdout.str()
    assert all(option.flag in text for option in OPTIONS.values())
    assert result.ret == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--infopt-candidate", "int8"],
        ["--infopt-candidate=int8"],
        ["--infopt-resume"],
        ["--infopt-report-dir=out"],
        ["--infopt-baseline=limits.json"],
        ["--infopt-baseline-update"],
        ["--infopt-policy=warn"],
        ["--infopt-timeout=3"],
    ],
)
def test_what_only_gates_heed_is_refused_without_infopt(
    pytester: pytest.Pytester, words: list[str]
) -> None:
    pytester.makepyfile("def test_plain(): pass")
    run = pytester.runpytest_inprocess(*words)
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    flag = words[0].partition("=")[0]
    run.stderr.fnmatch_lines([f"*{flag} says how to gate: give --infopt, too*"])
    pytester.makeini(f"[pytest]\naddopts = {' '.join(words)}")
    assert pytester.runpytest_inprocess().ret == pytest.ExitCode.OK


def test_an_ini_key_that_there_is_not_is_refused(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\ninfopt_candidates = int8")
    run = pytester.runpytest_inprocess("--infopt", "--collect-only")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*no ini key infopt_candidates; did you mean infopt_candidate?*"])
