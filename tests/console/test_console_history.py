"""The history of a folder: runs in order, one series for each candidate, device and reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_infopt.console.history import history_lines
from pytest_infopt.report.document import REPORT
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Judgement, Verdict


def run(number: int, value: float, device: str = "cpu") -> RunResult:
    judgement = Judgement("kl_mean", value, 10, 10, Verdict.PASS, 1.0)
    return RunResult(
        version="1",
        started=f"2026-01-{number + 1:02d}T00:00:00+00:00",
        run_id=f"run-{number:02d}",
        environment={"device": device},
        reference={"name": "r", "fingerprint": "f"},
        candidates=[{"name": "c"}],
        gates=[GateResult("quality", "c", 1.0, [judgement])],
        seconds=1.0,
    )


@pytest.fixture
def kept(tmp_path: Path):
    def keep(*runs: RunResult) -> Path:
        for each in runs:
            folder = tmp_path / "runs" / each.run_id
            folder.mkdir(parents=True)
            REPORT.write(each, folder)
        return tmp_path

    return keep


def evidence(lines: list[str]) -> float:
    (line,) = (line for line in lines if line.startswith("evidence"))
    return float(line.split(":")[1].split("(")[0])


def test_runs_are_listed_in_their_order(kept) -> None:
    folder = kept(run(2, 0.1), run(1, 0.1))
    (folder / "runs" / "run-03").mkdir()
    (folder / "runs" / "run-03" / "result.json").write_text("{}")
    lines = history_lines(folder, None, 100)
    assert [line.split()[0] for line in lines[1:]] == ["run-01", "run-02"]


def test_a_metric_that_rises_is_told_and_one_that_falls_is_not(kept, tmp_path: Path) -> None:
    folder = kept(*(run(n, 0.01 * (n + 1)) for n in range(25)))
    assert evidence(history_lines(folder, "kl_mean", 100)) > 100


def test_a_metric_that_does_not_rise_shows_nothing(kept) -> None:
    folder = kept(*(run(n, 0.01 * (25 - n)) for n in range(25)))
    assert evidence(history_lines(folder, "kl_mean", 100)) <= 1


def test_devices_have_histories_of_their_own(kept) -> None:
    folder = kept(run(1, 0.1), run(2, 0.2, "H100"), replace(run(3, 0.1), gates=[]))
    lines = history_lines(folder, "kl_mean", 100)
    titles = [line for line in lines if line.startswith("kl_mean of")]
    assert titles == ["kl_mean of c on cpu", "kl_mean of c on H100"]
    assert history_lines(folder, "top1_agreement", 100) == [
        "no finished run measured top1_agreement"
    ]
