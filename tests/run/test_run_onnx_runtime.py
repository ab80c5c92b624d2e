"""ONNX files under --infopt: what the page's script exports passes, and faults in it are found."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.run.exit_status import ExitStatus

for library in ("onnxruntime", "onnx", "onnxscript"):
    pytest.importorskip(library)

from onnx_faults import FAULTS, plant  # noqa: E402  after what it takes

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs/how-to/gate-another-engine.md"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_reference: Path) -> Path:
    """The reference, as the page's script exports it."""
    folder = tmp_path_factory.mktemp("onnx")
    script = folder / "export_onnx.py"
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r'title="export_onnx.py"\n(.*?)```', text, re.DOTALL)
    script.write_text(block)
    subprocess.run([sys.executable, str(script), str(tiny_reference), str(folder)], check=True)
    return folder


def candidate(exported: Path, file: str = "model.onnx") -> str:
    return f'engine = "onnxruntime"\nmodel = "{exported}"\noptions = {{ file = "{file}" }}'


def test_what_the_page_exports_passes_every_gate(
    gate: Callable[..., pytest.RunResult], result: Callable[[], dict[str, Any]], exported: Path
) -> None:
    # Of so small a model, torch.onnx keeps the head twice, as embedding and transposed; and its
    # few documents decide no closer limits.
    limits = 'weight_bytes = "1.2x", top1_agreement = "95 %", perplexity_ratio = "1.02x"'
    lines = f"{candidate(exported)}\nbudgets = {{ {limits} }}"
    assert gate(candidates={"onnx": lines}).ret == ExitStatus.PASSED
    rows = {row["metric"]: row for row in result()["gates"]}
    assert rows["kv_size_error"]["value"] == 0
    for metric in ("cached_error_ratio", "batch_error_ratio", "kv_error_ratio", "kl_mean"):
        assert rows[metric]["verdict"] == "PASS", metric
    # It is another library's arithmetic, and not the reference by another name.
    assert rows["max_logit_error"]["value"] > 0


FOUND = {
    "positions_restart": ("kv_error_ratio", "cached_error_ratio"),
    "cache_is_a_slot_off": ("kv_error_ratio", "cached_error_ratio"),
    "weight_is_transposed": ("logit_error_ratio", "kl_mean"),
}


def test_planted_faults_are_found(
    gate: Callable[..., pytest.RunResult], result: Callable[[], dict[str, Any]], exported: Path
) -> None:
    for fault in FAULTS:
        plant(exported / "model.onnx", exported / f"{fault.__name__}.onnx", fault)
    names = [fault.__name__ for fault in FAULTS]
    lines = {name: candidate(exported, f"{name}.onnx") for name in names}
    run = gate("-k", "equivalence or kv_cache or quality", candidates=lines)
    assert run.ret == ExitStatus.FAILED
    verdicts = {(r["candidate"], r["metric"]): r["verdict"] for r in result()["gates"]}
    for name in names:
        for metric in FOUND[name]:
            assert verdicts[name, metric] == "FAIL", (name, metric)
