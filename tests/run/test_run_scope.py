"""A run's verdict and exit status follow from what was asked for: nothing goes missing silently."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from default_gates import GATES

from pytest_infopt.gates.registry import gate_of, metrics
from pytest_infopt.run.exit_status import ExitStatus

BUT_MEMORY = [name for name in GATES if name != "memory"]
PART = f"PASS of a part (1 PASS, {len(BUT_MEMORY)} left out)"
MARKED = "import pytest\n\n@pytest.mark.infopt\ndef test_mine():\n    assert {}\n"
Run = Callable[..., pytest.RunResult]


@pytest.fixture
def release(gate: Run) -> None:
    """An infopt.toml in the current folder: one candidate, all gates but those of time."""
    gate("--collect-only")


@pytest.fixture
def infopt(pytester: pytest.Pytester, release: None) -> Run:
    """``infopt("-x", "tests")`` is ``pytest --infopt -x tests`` in this process."""

    def run(*arguments: str) -> pytest.RunResult:
        return pytester.runpytest_inprocess("--infopt", *arguments)

    return run


@pytest.fixture
def plugin(pytester: pytest.Pytester) -> Callable[[str], list[str]]:
    """``plugin("def pytest_…")`` is a plugin of somebody else's, as arguments of pytest."""
    pytester.syspathinsert()

    def write(text: str) -> list[str]:
        Path("meddling.py").write_text(text)
        return ["-p", "meddling"]

    return write


def gated(document: dict[str, Any]) -> list[str]:
    return [item["gate"] for item in document["items"]]


def last_line(run: pytest.RunResult) -> str:
    return [line for line in run.outlines if line.startswith("infopt: ")][-1][8:]


def assert_one_verdict(run: pytest.RunResult, document: dict[str, Any], verdict: str) -> None:
    """Terminal, result.json and summary.md agree."""
    assert document["verdict"] == verdict
    assert last_line(run).startswith(verdict)
    (summary,) = Path(".infopt/runs").glob(f"{document['run_id']}/summary.md")
    assert summary.read_text().splitlines()[0].split("infopt: ")[1].startswith(verdict)


@pytest.mark.parametrize(
    "argument", ["tests", ".", "tests/test_mine.py", "tests/test_mine.py::test_mine"]
)
def test_paths_add_tests_and_gates_stay(
    infopt: Run, result, pytester: pytest.Pytester, argument: str
) -> None:
    pytester.makepyfile(**{"tests/test_mine": MARKED.format(True)})
    run = infopt(argument)
    assert run.ret == ExitStatus.PASSED
    run.assert_outcomes(passed=len(GATES) + 1)
    assert gated(result()) == GATES


def test_a_test_of_ones_own_that_fails_fails_the_run_everywhere(
    infopt: Run, result, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_mine=MARKED.format(False))
    run = infopt("-k", "memory or mine")
    assert run.ret == ExitStatus.FAILED
    assert_one_verdict(run, result(), "FAIL")
    assert result()["failed_tests"] == ["test_mine.py::test_mine: assert False"]


def test_a_run_that_gated_nothing_is_never_green(
    infopt: Run, result, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_mine=MARKED.format(True))
    run = infopt("-m", "infopt")
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert_one_verdict(run, result(), "INCONCLUSIVE")
    assert infopt("-m", "infopt", "--infopt-policy=warn").ret == ExitStatus.INCONCLUSIVE
    assert infopt("-k", "no_such_name").ret == pytest.ExitCode.NO_TESTS_COLLECTED


@pytest.mark.parametrize(
    "arguments",
    [
        ["-k", "memory"],
        [f"--deselect=infopt_suites/gates/{name.replace('-', '_')}" for name in BUT_MEMORY],
    ],
)
def test_what_was_deselected_is_told_beside_the_verdict(
    infopt: Run, result, arguments: list[str]
) -> None:
    run = infopt(*arguments)
    assert run.ret == ExitStatus.PASSED
    assert last_line(run).startswith(PART)
    assert result()["left_out"] == [f"{name} of same: deselected" for name in BUT_MEMORY]


@pytest.mark.parametrize(
    ("option", "missing"),
    [("--lf", BUT_MEMORY), ("--stepwise", GATES[: GATES.index("memory")])],
)
def test_what_an_earlier_run_passed_is_not_left_out_but_missing(
    infopt: Run, result, plugin, option: str, missing: list[str]
) -> None:
    """These run what failed last: that says nothing of the rest of this release."""
    broken = plugin(
        "def pytest_runtest_setup(item):\n"
        "    if 'memory' in item.name: raise RuntimeError('no room')\n"
    )
    infopt(*broken, option)
    assert result()["verdict"] == "ERROR"
    error = {item["gate"]: item["error"] for item in result()["items"]}["memory"]
    assert error == "RuntimeError: no room"
    run = infopt(option)
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert_one_verdict(run, result(), "INCONCLUSIVE")
    assert result()["not_run"] == [f"{name} of same" for name in missing]


@pytest.mark.parametrize(
    ("hook", "missing"),
    [
        ("def pytest_itemcollected(item):\n    item.add_marker('skip')", None),
        (
            "def pytest_collection_modifyitems(items):\n"
            "    items[:] = [i for i in items if 'quality' not in i.name]",
            ["quality of same"],
        ),
    ],
    ids=["skipped", "removed"],
)
def test_a_gate_that_a_plugin_kept_away_is_missed(
    infopt: Run, result, plugin, hook: str, missing: list[str] | None
) -> None:
    run = infopt(*plugin(hook))
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert_one_verdict(run, result(), "INCONCLUSIVE")
    assert result()["not_run"] == (missing or [f"{name} of same" for name in GATES])


def test_a_first_failure_ends_the_run_with_one_verdict(infopt: Run, result, plugin) -> None:
    broken = plugin("def pytest_runtest_setup(item):\n    assert 'quality' not in item.name\n")
    run = infopt("-x", *broken)
    assert run.ret == ExitStatus.HARNESS_ERROR
    assert_one_verdict(run, result(), "ERROR")
    assert result()["not_run"] == [f"{name} of same" for name in GATES[2:]]


def test_a_candidate_without_limits_is_not_judged(gate: Run, result) -> None:
    names = [name for name in metrics() if not gate_of(name).per_release]
    off = "".join(f'{name} = "off"\n' for name in names)
    run = gate(candidates={"same": "", "free": f"[candidates.free.budgets]\n{off}"})
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert result()["not_run"] == ["free: no gate judges it, because it has no limits"]


def test_the_users_own_names_of_tests_do_not_hide_gates(infopt: Run, result) -> None:
    Path("pytest.ini").write_text(
        "[pytest]\npython_functions = check_*\npython_files = check_*.py\n"
    )
    assert infopt().ret == ExitStatus.PASSED
    assert gated(result()) == GATES
    assert infopt("--pyargs", "infopt_suites.gates").ret == ExitStatus.PASSED
    assert gated(result()) == GATES


def test_a_node_id_runs_when_it_is_pasted(infopt: Run, result) -> None:
    where = "infopt_suites/gates/memory/test_gate_memory.py::test_memory[same]"
    run = infopt("-k", "memory", "-v", "--junitxml=junit.xml")
    assert any(line.startswith(f"{where} PASSED") for line in run.outlines)
    junit = Path("junit.xml").read_text()
    assert 'classname="infopt_suites.gates.memory.test_gate_memory"' in junit
    again = infopt(where)
    assert again.ret == ExitStatus.PASSED
    assert gated(result()) == ["memory"]
    assert last_line(again).startswith(PART)


def test_gates_have_no_marker_that_is_unknown_without_xdist(
    pytester: pytest.Pytester, release: None
) -> None:
    # A process of its own: pytest remembers the markers that a session of this one has declared.
    strict = ("-p", "no:xdist", "--strict-markers", "-W", "error::pytest.PytestUnknownMarkWarning")
    run = pytester.runpytest_subprocess("--infopt", "--collect-only", *strict)
    assert run.ret == pytest.ExitCode.OK


def test_a_part_of_a_run_cannot_be_switched_off(infopt: Run) -> None:
    run = infopt("-p", "no:infopt-hooks")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*-p no:infopt-hooks leaves out a part of --infopt*"])


# What a second run of one item makes of its verdict.

RUN_AGAIN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for attempt in range(3):
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            if attempt < 2 and report.failed:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


def test_a_failure_is_not_tried_until_it_passes(
    gate: Run, result, plugin, pytester: pytest.Pytester
) -> None:
    """As pytest-rerunfailures runs items: what failed counts as a rerun, and is run again."""
    marker = pytester.path / "measured"
    (pytester.path / "flaky.py").write_text(
        "import torch\n"
        "from pathlib import Path\n"
        "from pytest_infopt.engines.loaders import load_float\n"
        "def load(request):\n"
        "    module = load_float(request)\n"
        f"    if not Path({str(marker)!r}).exists():\n"
        "        with torch.no_grad():\n"
        "            weight = module.get_output_embeddings().weight\n"
        "            weight.copy_(weight.flip(0))\n"
        f"    Path({str(marker)!r}).touch()\n"
        "    return module\n"
    )
    again = plugin(RUN_AGAIN)
    run = gate(*again, "-k", "quality", candidates={"flaky": 'quantization = "flaky:load"'})
    assert run.ret == ExitStatus.FAILED
    (item,) = result()["items"]
    assert item["verdict"] == "FAIL"


def test_items_that_are_collected_twice_are_one_gate(infopt: Run, result, plugin) -> None:
    """As pytest-repeat does it: a parameter more for every test."""
    twice = plugin(
        "import pytest\n"
        "@pytest.fixture(autouse=True)\n"
        "def repetition(request):\n    return request.param\n"
        "def pytest_generate_tests(metafunc):\n"
        "    metafunc.parametrize('repetition', [1, 2], indirect=True)\n"
    )
    run = infopt(*twice, "-k", "memory")
    assert run.ret == ExitStatus.PASSED
    run.assert_outcomes(passed=2)
    assert gated(result()) == ["memory"]
    assert last_line(run).startswith("PASS of a part (1 PASS, ")


def test_a_time_out_is_a_harness_error(gate: Run, result, monkeypatch, tmp_path: Path) -> None:
    """As pytest-timeout ends a test: pytest.fail from a signal's handler, wherever it is."""
    (tmp_path / "hanging.py").write_text(
        "import time\n"
        "from pytest_infopt.engines.loaders import load_float\n"
        "def load(request):\n    time.sleep(60)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = gate(
        *["-k", "quality or memory", "--timeout=3"],
        candidates={"hanging": 'quantization = "hanging:load"'},
    )
    assert run.ret == ExitStatus.HARNESS_ERROR
    items = result()["items"]
    assert {item["verdict"] for item in items} == {"ERROR"}
    assert all("Timeout" in item["error"] for item in items)


def test_a_time_out_that_would_end_the_process_is_refused(infopt: Run) -> None:
    run = infopt("--timeout=3", "--timeout-method=thread")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*use --timeout-method=signal*"])


def test_an_inconclusive_gate_is_no_failure_in_junit(gate: Run, result) -> None:
    from xml.etree import ElementTree

    run = gate(
        *["-k", "quality", "--junitxml=junit.xml"],
        candidates={"bf16": 'dtype = "bfloat16"'},
        budgets="kl_mean = 10",
        more="max_documents = 3",
    )
    assert run.ret == ExitStatus.INCONCLUSIVE
    (suite,) = ElementTree.parse("junit.xml").iter("testsuite")
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "1")
    (skipped,) = suite.iter("skipped")
    assert "quality of bf16: INCONCLUSIVE" in skipped.get("message", "")


# xdist


@pytest.mark.slow
def test_a_crashed_worker_is_a_harness_error_and_what_it_left_is_missed(
    gate: Run, result, plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), *sys.path]))
    crash = plugin(
        "import os\ndef pytest_runtest_setup(item):\n    if 'quality' in item.name: os._exit(7)\n"
    )
    run = gate(*crash, "-n1", "--max-worker-restart=0", subprocess=True)
    assert run.ret == ExitStatus.HARNESS_ERROR
    assert_one_verdict(run, result(), "ERROR")
    run = gate(*crash, "-n2", "--dist=load", subprocess=True)
    assert run.ret == ExitStatus.HARNESS_ERROR
    verdicts = {item["gate"]: item["verdict"] for item in result()["items"]}
    assert verdicts == {name: "ERROR" if name == "quality" else "PASS" for name in GATES}


@pytest.mark.slow
def test_workers_tell_what_was_left_out(
    release: None, result, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    pytester.makepyfile(test_mine=MARKED.format(True))
    run = pytester.runpytest_subprocess("--infopt", "-n2", "-k", "memory or quality")
    assert run.ret == ExitStatus.PASSED
    assert gated(result()) == ["quality", "memory"]
    assert len(result()["left_out"]) == len(GATES) - 2


# Signals


@pytest.mark.parametrize("ignored", [False, True])
def test_a_hang_up_ends_a_run_unless_it_is_ignored(
    release: None, plugin, pytester: pytest.Pytester, ignored: bool
) -> None:
    """nohup starts a run that a closed terminal is not to end."""
    hangs_up = plugin(
        "import signal\ndef pytest_collection_finish():\n    signal.raise_signal(signal.SIGHUP)\n"
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else lambda *_: None)
    try:
        words = ("--infopt", "--collect-only", *hangs_up)
        run = pytester.runpytest_inprocess(*words, no_reraise_ctrlc=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert run.ret == (pytest.ExitCode.OK if ignored else pytest.ExitCode.INTERRUPTED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_ended_run_writes_reports_that_do_not_pass(
    release: None, result, plugin, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    slow = plugin(
        "import time\n"
        "from pathlib import Path\n"
        "def pytest_runtest_setup(item):\n"
        "    if 'kv_cache' in item.name:\n"
        "        Path('reached').touch()\n"
        "        time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--infopt", *slow],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not Path("reached").exists():
        time.sleep(0.05)
    os.killpg(process.pid, getattr(signal, name))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    document = result()
    ended, left = GATES[: GATES.index("kv-cache")], GATES[GATES.index("kv-cache") :]
    assert gated(document) == ended
    assert document["verdict"] == "INCONCLUSIVE"
    assert document["not_run"] == [f"{name} of same" for name in left]
    assert f"infopt: INCONCLUSIVE ({len(ended)} PASS, {len(left)} not run)" in output
    assert json.loads(json.dumps(document))["verdict"] == "INCONCLUSIVE"
