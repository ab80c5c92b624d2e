"""SmolLM2 behind real servers, against the same weights in process: a whole run, which passes.

The packages are those of the extra server-peers; without them the tests are skipped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.engines.files.embedded import embedded_model, packaged_gguf
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource
from pytest_infopt.run.exit_status import ExitStatus

pytestmark = pytest.mark.slow
MODEL = "embedded:smollm2"
SIZES = "[endpoint]\nprompts = 12\npositions = 4\n[corpus]\nmax_documents = 32\n"
TRANSFORMERS = "from transformers.cli.transformers import main; main()"


@pytest.fixture
def gated(pytester: pytest.Pytester, result: Callable[..., dict[str, Any]]) -> Any:
    """What a run comes to whose only candidate is what the command serves."""

    def run(command: list[str], lines: str) -> dict[str, Any]:
        (pytester.path / "infopt.toml").write_text(
            f'[reference]\nmodel = "{MODEL}"\ndtype = "float32"\n'
            f'[candidates.served]\nengine = "openai"\nserver.url = "http://localhost:{{port}}/v1"\n'
            f"server.command = {json.dumps([sys.executable, *command])}\n{lines}\n{SIZES}"
        )
        assert pytester.runpytest_inprocess("--infopt").ret == ExitStatus.PASSED
        return result()

    return run


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert document["left_out"] == document["not_run"] == []
    return {row["metric"]: row for row in document["gates"]}


def test_transformers_serve(gated: Any, tmp_path: Path) -> None:
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        pytest.skip("transformers[serving] is not installed")
    engine = load_engine(ModelSource("reference", MODEL, dtype="float32"))
    engine.module.save_pretrained(tmp_path)
    engine.tokenizer.save_pretrained(tmp_path)
    command = ["-c", TRANSFORMERS, "serve", "--port", "{port}", "--dtype", "float32"]
    document = gated(command, f'server.model = "{tmp_path}"\ndtype = "float32"')
    rows = rows_of(document)
    assert rows["endpoint_token_mismatches"]["value"] == 0
    assert rows["endpoint_top1_agreement"]["value"] == 1


def test_a_gguf_file_behind_llama_cpp(gated: Any) -> None:
    pytest.importorskip("xllamacpp")
    file = packaged_gguf(embedded_model(MODEL))
    assert file is not None
    script = Path(__file__).parents[1] / "llama_cpp_server.py"
    source = f'model = "{file.parent}"\nquantization = "gguf"\ngguf_file = "{file.name}"'
    rows = rows_of(gated([str(script), str(file), "{port}"], source))
    assert rows["endpoint_top1_agreement"]["verdict"] == "PASS"
    assert rows["endpoint_kl_mean"]["verdict"] == "PASS"
    # A lower bound of what its 8-bit activations cost: it is not the reference by another name.
    assert 0 < rows["endpoint_kl_mean"]["value"] < rows["endpoint_kl_mean"]["budget"]
