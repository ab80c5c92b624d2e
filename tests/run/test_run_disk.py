"""Folders, journals and disks that do not do their part: one sentence, nothing measured lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_infopt.run.exit_status import ExitStatus
from pytest_infopt.store.journal import Journal, RunRecords, latest_run
from pytest_infopt.store.lock import RunLock

Run = Callable[..., pytest.RunResult]
MEMORY = ("-k", "memory")


def refused(run: pytest.RunResult, words: str) -> None:
    """A usage error in one sentence."""
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines([f"ERROR: *{words}*"])
    assert "Traceback" not in run.stderr.str() + run.stdout.str()
    assert "INTERNALERROR" not in run.stderr.str() + run.stdout.str()


def test_a_plan_leaves_no_run_behind(gate: Run) -> None:
    gate(*MEMORY)
    before = latest_run(Path(".infopt"))
    gate("--collect-only")
    assert latest_run(Path(".infopt")) == before
    assert gate("--infopt-resume", "--collect-only").ret == pytest.ExitCode.OK


def test_help_reads_no_configuration(pytester: pytest.Pytester) -> None:
    Path("infopt.toml").write_text("[reference")
    for option in ("--help", "--version"):
        run = pytester.runpytest_inprocess("--infopt", option)
        assert run.ret == pytest.ExitCode.OK
        assert "Traceback (most" not in run.stdout.str() + run.stderr.str()
    assert not Path(".infopt").exists()


@pytest.mark.parametrize("option", ["--infopt-report-dir=taken", "--infopt-report-dir=taken/below"])
def test_a_report_folder_that_is_a_file_is_refused(gate: Run, option: str) -> None:
    Path("taken").touch()
    refused(gate(*MEMORY, option), "cannot be written: Not a directory; name another folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(gate: Run) -> None:
    Path("closed").mkdir(mode=0o500)
    refused(gate(*MEMORY, "--infopt-report-dir=closed"), "cannot be written: Permission denied")


@pytest.mark.parametrize(
    "line",
    [
        '{"kind": "sample"',
        '{"kind": "sample"}',
        '{"kind": "item", "result": {"gate": 3}}',
        '{"kind": "run"}',
        "\x00\x00",
    ],
)
def test_a_damaged_journal_is_refused_by_file_and_line(gate: Run, line: str) -> None:
    gate(*MEMORY)
    folder = latest_run(Path(".infopt"))
    assert folder is not None
    journal = folder / "journal.jsonl"
    journal.write_text(f"{line}\n" + journal.read_text())
    refused(gate(*MEMORY, "--infopt-resume"), "journal.jsonl, line 1 is not a journal record")


@pytest.mark.parametrize("run_id", ["..", "-x", "20260101"])
def test_a_run_that_is_not_there_is_refused(gate: Run, run_id: str) -> None:
    assert gate(*MEMORY, f"--infopt-resume={run_id}").ret == pytest.ExitCode.USAGE_ERROR


def test_a_run_is_not_resumed_twice_at_once(gate: Run) -> None:
    gate(*MEMORY)
    folder = latest_run(Path(".infopt"))
    assert folder is not None
    held = RunLock(folder)
    refused(gate(*MEMORY, "--infopt-resume"), f"is under way (process {os.getpid()})")
    held.release()
    assert gate(*MEMORY, "--infopt-resume").ret == ExitStatus.PASSED


FULL = """
import errno
from pytest_infopt.store import journal

class Full:
    def __init__(self, stream):
        self.stream, self.written = stream, 0
    def write(self, data):
        self.written += 1
        if self.written > {records}:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.stream.write(data)
    def close(self):
        self.stream.close()

write = journal.Journal.write
def meddled(self, kind, **fields):
    write(self, kind, **fields)
    if not isinstance(self._stream, Full):
        self._stream = Full(self._stream)
journal.Journal.write = meddled
"""


def test_a_full_disk_loses_nothing_that_was_measured(
    gate: Run, result, pytester: pytest.Pytester
) -> None:
    pytester.syspathinsert()
    Path("full_disk.py").write_text(FULL.format(records=3))
    gates = ("-k", "quality or memory")
    run = gate("-p", "full_disk", *gates, subprocess=True)
    assert run.ret == ExitStatus.HARNESS_ERROR
    document = result(journalled=False)
    assert document["verdict"] == "ERROR"
    assert {item["verdict"] for item in document["items"]} == {"PASS"}
    (fault,) = document["faults"]
    assert "No space left on device; what was measured since is judged" in fault
    assert "No space left on device; what was measured" in " ".join(run.stdout.str().split())
    assert "Traceback" not in run.stdout.str()
    assert gate(*gates, "--infopt-resume").ret == ExitStatus.PASSED


def test_reports_that_cannot_be_written_are_a_harness_error(gate: Run, monkeypatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(Path.cwd()))  # a folder
    run = gate(*MEMORY)
    assert run.ret == ExitStatus.HARNESS_ERROR
    run.stdout.fnmatch_lines(
        ["*report github-summary failed: IsADirectoryError*", "infopt: ERROR*"]
    )
    (path,) = Path(".infopt/runs").glob("*/result.json")
    assert json.loads(path.read_text())["verdict"] == "ERROR"


def test_a_baseline_that_is_not_there_or_cannot_be_written_is_told(gate: Run, result) -> None:
    refused(gate(*MEMORY, "--infopt-baseline=nope.json"), "nope.json does not exist; begin it with")
    Path("taken").touch()
    run = gate(*MEMORY, "--infopt-baseline=taken/limits.json", "--infopt-baseline-update")
    assert run.ret == ExitStatus.HARNESS_ERROR
    assert "taken/limits.json cannot be written" in result()["faults"][0]
    refused(gate(*MEMORY, "--infopt-baseline=."), "cannot be read: Is a directory")


def test_a_baseline_that_limits_nothing_here_is_no_comparison(gate: Run, result) -> None:
    words = ("-k", "quality", "--infopt-baseline=limits.json")
    bf16, loose = 'dtype = "bfloat16"', 'kl_mean = 10\ntop1_agreement = "off"'
    gate(*words, "--infopt-baseline-update", candidates={"bf16": bf16}, budgets=loose)
    assert json.loads(Path("limits.json").read_text())["entries"]
    run = gate(*words, candidates={"renamed": bf16}, budgets=loose)
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert "it has no limit for renamed on cpu" in result()["not_run"][0]


def test_a_corpus_of_one_document_is_too_small_before_anything_is_loaded(gate: Run, result) -> None:
    Path("one.txt").write_text(" ".join(f"w{i}" for i in range(40)))
    run = gate("-k", "equivalence or kv_cache", corpus="one.txt")
    assert run.ret == ExitStatus.INCONCLUSIVE
    said = {item["gate"]: item["not_run"] for item in result()["items"]}
    assert set(said) == {"equivalence", "kv-cache"}
    assert all("takes 2 documents" in why and "the corpus has 1" in why for why in said.values())
    (folder,) = Path(".infopt/runs").iterdir()
    assert not list(folder.glob("worker*"))  # no model was loaded
    run = gate("--collect-only", corpus="one.txt")
    run.stdout.fnmatch_lines(["*equivalence: NOT RUN: it takes 2 documents*"])


def test_documents_that_are_too_short_are_no_index_error(gate: Run, result) -> None:
    Path("two.jsonl").write_text('{"text": "w1 w2 w3 w4 w5 w6"}\n{"text": "w1"}\n')
    run = gate("-k", "equivalence or kv_cache", corpus="two.jsonl")
    assert run.ret == ExitStatus.INCONCLUSIVE
    reasons = {row["reason"] for row in result()["gates"]}
    assert all("2 prompts, each of another document: the corpus has 1" in r for r in reasons)


def test_a_broken_write_is_remembered_and_the_rest_is_whole(tmp_path: Path, monkeypatch) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("x")
    journal.close()
    monkeypatch.setattr(journal, "_stream", open("/dev/full", "wb", buffering=0))  # noqa: SIM115
    journal.write("x")
    journal.write("x")
    journal.close()
    assert "No space left on device" in journal.failure
    assert len(RunRecords.read(tmp_path).records) == 1
