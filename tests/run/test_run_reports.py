"""What a run leaves behind beside its verdict: annotations, summaries, baselines, resumed gates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_infopt.run.exit_status import ExitStatus

QUALITY = ("-k", "quality")
BF16 = {"bf16": 'dtype = "bfloat16"'}
LOOSE = 'kl_mean = 10\nperplexity_ratio = "off"\ntop1_agreement = "off"'


def test_github_gets_a_summary_and_annotations(
    gate, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = pytester.path / "step.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    run = gate(*QUALITY, candidates=BF16, budgets="kl_mean = 1e-12")
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["::error title=*"])
    assert "FAIL" in summary.read_text()
    monkeypatch.delenv("GITHUB_ACTIONS")
    run = gate(*QUALITY, candidates=BF16, budgets="kl_mean = 1e-12")
    run.stdout.no_fnmatch_line("::*")


def limits(path: Path) -> dict[str, float]:
    return {entry["metric"]: entry["limit"] for entry in json.loads(path.read_text())["entries"]}


def test_a_baseline_tightens_by_itself_and_loosens_with_a_reason(
    gate, result, pytester: pytest.Pytester
) -> None:
    path = pytester.path / "baselines.json"
    words = [*QUALITY, f"--infopt-baseline={path}"]
    run = gate(*words, "--infopt-baseline-update", candidates=BF16, budgets=LOOSE)
    assert run.ret == ExitStatus.PASSED
    tight = limits(path)["kl_mean"]
    assert tight < 10
    gate(*words, candidates=BF16, budgets=LOOSE)
    row = next(r for r in result()["gates"] if r["metric"] == "kl_mean")
    assert row["budget"] == tight
    document = json.loads(path.read_text())
    document["entries"][0]["limit"] = 1e-12  # an earlier, better candidate
    path.write_text(json.dumps(document))
    assert gate(*words, candidates=BF16, budgets=LOOSE).ret == ExitStatus.FAILED
    loosen = "--infopt-baseline-loosen=the kernel was wrong"
    assert gate(*words, loosen, candidates=BF16, budgets=LOOSE).ret == ExitStatus.PASSED
    entry = json.loads(path.read_text())["entries"][0]
    assert entry["limit"] == pytest.approx(tight, rel=1e-12)
    assert [step["reason"] for step in entry["history"]] == ["the kernel was wrong"]
    assert gate(*words, candidates=BF16, budgets=LOOSE).ret != ExitStatus.FAILED


def test_a_baseline_of_another_corpus_is_no_comparison(
    gate, result, pytester: pytest.Pytester
) -> None:
    path = pytester.path / "baselines.json"
    words = [*QUALITY, f"--infopt-baseline={path}"]
    gate(*words, "--infopt-baseline-update", candidates=BF16, budgets=LOOSE)
    document = json.loads(path.read_text())
    document["entries"][0]["provenance"]["corpus_fingerprint"] = "another"
    path.write_text(json.dumps(document))
    assert gate(*words, candidates=BF16, budgets=LOOSE).ret == ExitStatus.INCONCLUSIVE
    row = next(r for r in result()["gates"] if r["metric"] == "kl_mean")
    assert "corpus_fingerprint" in row["reason"]


def test_updating_without_a_baseline_is_refused(gate) -> None:
    run = gate(*QUALITY, "--infopt-baseline-update")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*name it with --infopt-baseline*"])


def test_a_decided_gate_is_not_measured_again_on_resume(gate, result, damaged) -> None:
    path = damaged("gone", lambda module: None)
    candidates = {"gone": f'model = "{path}"'}
    assert gate(*QUALITY, candidates=candidates).ret == ExitStatus.PASSED
    before = result()
    weights = path / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))  # loading it again would be an error
    run = gate(*QUALITY, "--infopt-resume=latest", candidates=candidates)
    assert run.ret == ExitStatus.PASSED
    assert result()["gates"] == before["gates"]


def test_a_latency_failure_is_confirmed_by_models_loaded_anew(gate, result) -> None:
    run = gate(
        *["-k", "latency"],
        budgets="tpot_ratio = 0.05\nttft_ratio = 0.05",
        more="[latency]\nprompt_tokens = 8\nnew_tokens = 4",
    )
    assert run.ret == ExitStatus.FAILED
    rows = [r for r in result()["gates"] if r["verdict"] == "FAIL"]
    assert {row["metric"] for row in rows} == {"ttft_ratio", "tpot_ratio"}
    assert {row["reason"] for row in rows} == {"confirmed by models loaded anew"}
    journal = max((Path.cwd() / ".infopt" / "runs").glob("*/journal.jsonl"))
    assert '"phase": "confirmation"' in journal.read_text()
