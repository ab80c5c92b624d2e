"""The commands on a baselines file: every limit and where it comes from, and its changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from pytest_infopt.console import main
from pytest_infopt.console.baselines import expired
from pytest_infopt.report.document import REPORT
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import RunResult
from pytest_infopt.results.verdict import Judgement, Verdict
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


# Changes by hand.

RUN = RunResult(
    version="0.1.0",
    started="2026-11-20T10:00:00+00:00",
    run_id="run-9",
    environment={"device": "cpu", "torch": "2.13.0", "transformers": "5.23.0"},
    reference={"name": "r", "fingerprint": "model"},
    candidates=[{"name": "int8", "fingerprint": "own", "dtype": "float32"}],
    gates=[],
    seconds=1.0,
    corpus="corpus",
)


def told(metric: str, low: float, high: float, verdict: Verdict = Verdict.PASS) -> Judgement:
    return Judgement(metric, (low + high) / 2, 50, 50, verdict, None, (low, high))


@pytest.fixture
def bless(tmp_path: Path) -> Callable[..., int]:
    """Bless a run of these judgements with these words."""

    def call(*words: str, judgements: list[Judgement], **fields: object) -> int:
        gate = GateResult("quality", "int8", 1.0, judgements)
        run = replace(RUN, gates=[gate], **fields)  # type: ignore[arg-type]
        assert REPORT.write is not None
        REPORT.write(run, tmp_path)
        return main(["bless", str(tmp_path), str(tmp_path / "limits.json"), *words])

    return call


def test_a_blessed_run_leaves_its_far_bounds_and_where_they_come_from(
    bless: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "limits.json"
    failed = told("perplexity_ratio", 1.1, 1.2, Verdict.FAIL)
    judgements = [told("kl_mean", 0.01, 0.02), told("top1_agreement", 0.9, 0.95), failed]
    assert bless("--diff", judgements=judgements) == 0
    assert not path.exists()
    assert bless(judgements=judgements) == 0
    entries = {entry.metric: entry for entry in Baselines.load(path).entries}
    assert {name: entry.limit for name, entry in entries.items()} == {
        "kl_mean": 0.02,
        "top1_agreement": 0.9,
    }
    assert entries["kl_mean"].provenance == replace(
        FROM, run_id="run-9", date="2026-11-20", software="torch 2.13.0, transformers 5.23.0"
    )
    shown = capsys.readouterr().out
    assert shown.count("new") == 4  # two limits, by --diff and in earnest
    assert "perplexity_ratio" not in shown


def test_a_worse_run_loosens_with_a_reason_alone(bless: Callable[..., int], tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    bless(judgements=[told("kl_mean", 0.01, 0.02)])
    worse, before = [told("kl_mean", 0.02, 0.03)], path.read_bytes()
    assert bless(judgements=worse) == 0
    assert path.read_bytes() == before
    assert bless("--loosen", "new tokenizer", judgements=worse) == 0
    (entry,) = Baselines.load(path).entries
    assert (entry.limit, entry.history[0].reason) == (0.03, "new tokenizer")


def test_a_run_on_another_corpus_moves_nothing_and_says_so(
    bless: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "limits.json"
    bless(judgements=[told("kl_mean", 0.01, 0.02)])
    before = path.read_bytes()
    assert bless(judgements=[told("kl_mean", 0.001, 0.002)], corpus="another") == 0
    assert path.read_bytes() == before
    shown = " ".join(capsys.readouterr().out.split())
    assert "another corpus_fingerprint (run run-9); set it anew with --loosen REASON" in shown


@pytest.mark.parametrize("lacking", [{"corpus": ""}, {"environment": {}}])
def test_a_run_that_does_not_tell_its_source_is_refused(
    bless: Callable[..., int], capsys: pytest.CaptureFixture[str], lacking: dict[str, object]
) -> None:
    assert bless(judgements=[told("kl_mean", 0.01, 0.02)], **lacking) == 2
    assert "run run-9 does not tell its device and corpus" in capsys.readouterr().err


def test_the_difference_of_two_files_is_by_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    later = replace(FROM, run_id="run-2")
    kept = Entry("int8", "perplexity_ratio", 1.01, FROM)
    old = [kept, Entry("int8", "kl_mean", 0.02, FROM), Entry("int8", "top1_agreement", 0.9, FROM)]
    new = [kept, Entry("int8", "kl_mean", 0.01, later), Entry("nf4", "top1_agreement", 0.8, later)]
    for name, entries in (("old", old), ("new", new)):
        Baselines(tmp_path / name, entries).save()
    assert main(["baselines", str(tmp_path / "new"), "--diff", str(tmp_path / "old")]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    changes = [(row[0], row[-2]) for row in rows if row[-1] in ("run-1", "run-2")]
    assert changes == [
        ("kl_mean", "tighter"),
        ("top1_agreement", "gone"),
        ("top1_agreement", "new"),
    ]


@pytest.mark.parametrize(
    ("which", "left"),
    [
        ({"days": 10}, {"cuda"}),
        ({"days": 11}, {"cpu", "cuda"}),
        ({"device": "cuda"}, {"cpu"}),
        ({"days": 1, "device": "cuda"}, {"cpu"}),
        ({"days": 10, "candidate": "nf4"}, {"cpu", "cuda"}),
    ],
)
def test_limits_expire_by_age_and_by_whose_they_are(
    tmp_path: Path, which: dict[str, object], left: set[str]
) -> None:
    recent = replace(FROM, device="cuda", date="2026-11-10")
    entries = [Entry("int8", "kl_mean", 0.02, source) for source in (FROM, recent)]
    baselines = Baselines(tmp_path / "limits.json", entries)
    asked = {"days": None, "device": None, "candidate": None, **which}
    gone = expired(baselines, date(2026, 11, 12), **asked)  # type: ignore[arg-type]
    assert {entry.provenance.device for entry in baselines.entries} == left
    assert len(gone) + len(left) == 2


def test_expiring_nothing_in_particular_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "limits.json"
    Baselines(path, [Entry("int8", "kl_mean", 0.02, FROM)]).save()
    assert main(["expire", str(path)]) == 2
    assert "--older-than DAYS" in capsys.readouterr().err
    assert main(["expire", str(path), "--older-than=0"]) == 0
    assert Baselines.load(path).entries == []
