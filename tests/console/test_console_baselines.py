"""`infopt baselines`: every limit of a file, and where it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_infopt.console import main
from pytest_infopt.store.baselines import Baselines, Entry, Loosening, Provenance

FROM = Provenance("run-1", "2026-11-02", "0.1.0", "model", "corpus", "float32", "cpu")


def test_each_limit_is_shown_with_its_run_and_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baselines.json"
    step = Loosening("2026-11-01", "run-0", 0.01, 0.02, "new tokenizer")
    later = replace(FROM, run_id="run-2", date="2026-11-03")
    entries = [
        Entry("int8", "kl_mean", 0.02, later, (step,)),
        Entry("int8", "top1_agreement", 0.95, FROM),
        Entry("int8", "kl_mean", 0.03, replace(FROM, device="cuda")),
    ]
    Baselines(path, entries).save()
    assert main(["baselines", str(path)]) == 0
    on_cpu, _, on_cuda = capsys.readouterr().out.partition("int8 on cuda")
    assert on_cpu.startswith("int8 on cpu\n")
    assert on_cpu.index("top1_agreement") < on_cpu.index("kl_mean")  # the oldest first
    for told in ("≥ 95 %", "≤ 0.02 nats", "run-1", "2026-11-03", "new tokenizer"):
        assert told in on_cpu
    assert "≤ 0.03 nats" in on_cuda
    assert "new tokenizer" not in on_cuda


def test_a_file_that_is_not_there_is_no_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["baselines", str(tmp_path / "none.json")]) == 2
    assert "does not exist; begin it with" in capsys.readouterr().err
