"""A FAIL says where the candidate is at fault; a diagnosis changes no verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.run import diagnosis
from pytest_infopt.run.exit_status import ExitStatus

NAME = "model.layers.1.mlp.up_proj"
QUALITY = ("-k", "quality")


@pytest.fixture
def scaled(damaged) -> str:
    """A candidate of which one matrix is half as large again, as lines of infopt.toml."""

    def damage(module: Any) -> None:
        module.get_submodule(NAME).weight.data *= 1.5

    return f'model = "{damaged("scaled", damage)}"'


def _item(document: dict[str, Any]) -> dict[str, Any]:
    (item,) = (item for item in document["items"] if item["gate"] == "quality")
    return item


def _kept(root: Path) -> list[dict[str, Any]]:
    (journal,) = root.glob(".infopt/runs/*/journal.jsonl")
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    return [record for record in records if record.get("phase") == "diagnosis"]


def test_a_failure_names_the_module_in_every_report(gate, result, pytester, scaled) -> None:
    run = gate(*QUALITY, "--junitxml=junit.xml", candidates={"scaled": scaled})
    assert run.ret == ExitStatus.FAILED
    found = _item(result())["details"]
    assert found["diagnosis_figures"]["weights"]["outliers"] == [NAME]
    assert found["diagnosis_figures"]["weights"]["kind"] == "broken"
    assert found["diagnosis_figures"]["weights"]["artifact"]["compared"] > 10
    assert found["diagnosis_figures"]["weights"]["artifact"]["differing"] == []  # it is on disk
    (folder,) = pytester.path.glob(".infopt/runs/*")
    sentence = f"first module above the noise floor: {NAME}"
    for text in (
        run.stdout.str(),
        (folder / "summary.md").read_text(),
        (pytester.path / "junit.xml").read_text(),
    ):
        assert sentence in text
        assert "recovers 100 % of the loss" in text
        assert "reproduce:" in text
    assert "hidden states, candidate against reference" in (folder / "summary.md").read_text()


def test_gates_that_one_cause_has_failed_share_its_diagnosis(
    gate, result, pytester, scaled
) -> None:
    run = gate("-k", "quality or equivalence", candidates={"scaled": scaled})
    assert run.ret == ExitStatus.FAILED
    failed = [item for item in result()["items"] if item["verdict"] == "FAIL"]
    assert len(failed) == 2
    assert len({json.dumps(item["details"]["diagnosis"]) for item in failed}) == 1
    assert len(_kept(pytester.path)) == 1


def test_a_resumed_run_does_not_look_again(
    gate, result, pytester, scaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate(*QUALITY, candidates={"scaled": scaled})
    before = _item(result())["details"]["diagnosis"]
    monkeypatch.setattr(diagnosis, "_MEASURE", "no.such:Measure")
    (journal,) = pytester.path.glob(".infopt/runs/*/journal.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if json.loads(line)["kind"] != "item"))
    run = gate(*QUALITY, "--infopt-resume", candidates={"scaled": scaled})
    assert run.ret == ExitStatus.FAILED
    assert _item(result())["details"]["diagnosis"] == before


def test_a_diagnosis_that_breaks_is_a_note(
    gate, result, scaled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "_MEASURE", "no.such:Measure")
    run = gate(*QUALITY, candidates={"scaled": scaled})
    assert run.ret == ExitStatus.FAILED
    item = _item(result())
    assert item["verdict"] == "FAIL"
    assert any(note.startswith("no diagnosis: ") for note in item["notes"])
    assert "diagnosis" not in item["details"]


def test_no_seconds_are_no_diagnosis(gate, result, scaled) -> None:
    run = gate(*QUALITY, candidates={"scaled": scaled}, more="[diagnose]\nseconds = 0")
    assert run.ret == ExitStatus.FAILED
    item = _item(result())
    assert "diagnosis" not in item["details"]
    assert not any("diagnosis" in note for note in item["notes"])


def test_a_run_that_passes_is_not_diagnosed(gate, pytester) -> None:
    run = gate(*QUALITY, candidates={"bf16": 'dtype = "bfloat16"'}, budgets='kl_mean = "1 nats"')
    assert run.ret == ExitStatus.PASSED
    assert _kept(pytester.path) == []


LOADERS = """
from pytest_infopt.engines.loaders import load_float

def load_otherwise(request):
    module = load_float(request)
    module.model.layers[1].input_layernorm.register_forward_hook(
        lambda part, args, output: output * 1.2 if output.shape[-2] == 1 else output
    )
    return module

def load_scaled(request):
    module = load_float(request)
    module.model.layers[1].mlp.up_proj.weight.data *= 1.5
    return module
"""


def test_weights_that_loading_changes_are_told_from_the_checkpoint(gate, result, pytester) -> None:
    pytester.makepyfile(cache_loaders=LOADERS)
    run = gate(*QUALITY, candidates={"other": 'quantization = "cache_loaders:load_scaled"'})
    assert run.ret == ExitStatus.FAILED
    details = _item(result())["details"]
    artifact = details["diagnosis_figures"]["weights"]["artifact"]
    assert artifact["differing"] == [f"{NAME}.weight"]
    assert any("loading has changed them" in sentence for sentence in details["diagnosis"])


def test_a_cached_pass_that_differs_names_step_and_module(gate, result, pytester) -> None:
    pytester.makepyfile(cache_loaders=LOADERS)
    run = gate(
        "-k", "kv_cache", candidates={"other": 'quantization = "cache_loaders:load_otherwise"'}
    )
    assert run.ret == ExitStatus.FAILED
    (item,) = (item for item in result()["items"] if item["gate"] == "kv-cache")
    found = item["details"]["diagnosis_figures"]["cache"]
    assert found["module"] == "model.layers.1.input_layernorm"
    assert found["step"] == 1


def test_a_degraded_candidate_is_tried_in_mixed_precision(gate, result) -> None:
    run = gate(
        *QUALITY, candidates={"int3": 'quantization = "int3"'}, budgets='kl_mean = "0.00001 nats"'
    )
    assert run.ret == ExitStatus.FAILED
    details = _item(result())["details"]
    found = details["diagnosis_figures"]["weights"]
    assert found["kind"] == "degraded"
    best = max(found["layers"], key=lambda layer: layer[1])[0]
    assert found["mixed_precision"]["options"]["skip"][-1] == best
    assert found["mixed_precision"]["loss_nats"] < found["loss_nats"]
    assert any(sentence.startswith("options = {skip = [") for sentence in details["diagnosis"])
