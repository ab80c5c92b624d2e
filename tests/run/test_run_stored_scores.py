"""A release whose reference is stored: written by the console, gated without the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.console import main
from pytest_infopt.run.exit_status import ExitStatus

STORED = '[reference]\nengine = "stored-scores"\noptions.scores = "scores"\ndtype = "float32"\n'
QUALITY = ("-k", "quality")


def rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in document["gates"]}


@pytest.fixture
def without_weights(
    gate, pytester: pytest.Pytester, tiny_reference: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """Runs quality once with the model and once with its scores alone, the weights being gone."""

    def run(
        *arguments: str, candidate: Path, budgets: str = ""
    ) -> tuple[pytest.RunResult, pytest.RunResult]:
        reference = pytester.path / "reference"
        shutil.copytree(tiny_reference, reference)
        monkeypatch.chdir(pytester.path)
        words = [*QUALITY, "--infopt-reference", str(reference)]
        tables = {"candidates": {"other": f'model = "{candidate}"'}, "budgets": budgets}
        live = gate(*words, **tables)
        configuration = pytester.path / "infopt.toml"
        text = configuration.read_text().replace(
            f'[reference]\nmodel = "{tiny_reference}"\n', f'{STORED}model = "reference"\n'
        )
        (pytester.path / "stored.toml").write_text(text)
        capsys.readouterr()
        assert main(["scores", "--config", "stored.toml", *arguments]) == 0
        assert "documents" in capsys.readouterr().out
        (reference / "model.safetensors").unlink()
        kept = pytester.runpytest_inprocess(
            "--infopt", "-p", "no:cacheprovider", "--infopt-config=stored.toml", *QUALITY,
            "--pyargs", "infopt_suites.gates",
        )  # fmt: skip
        return live, kept

    return run


def test_exact_scores_give_the_verdicts_and_values_of_the_model(
    without_weights, result, damaged, pytester: pytest.Pytester
) -> None:
    def damage(module: Any) -> None:
        module.model.layers[0].mlp.down_proj.weight.data.mul_(-1.0)

    live, kept = without_weights("--exact", candidate=damaged("broken", damage))
    assert live.ret == kept.ret == ExitStatus.FAILED
    documents = sorted((pytester.path / ".infopt" / "runs").glob("*/result.json"))
    before, after = (rows(json.loads(path.read_text())) for path in documents)
    assert before.keys() == after.keys()
    for name, row in before.items():
        assert after[name]["verdict"] == row["verdict"]
        assert after[name]["value"] == pytest.approx(row["value"], rel=1e-4)


def test_compact_scores_pass_a_copy_and_say_what_they_are(
    without_weights, result, tiny_reference: Path
) -> None:
    # Of 40 documents whose bits cannot be compared, these limits take more.
    more = 'top1_agreement = "off"\nperplexity_ratio = "off"\n'
    live, kept = without_weights(candidate=tiny_reference, budgets=more)
    assert live.ret == ExitStatus.PASSED
    assert kept.ret == ExitStatus.PASSED
    document = result()
    (item,) = document["items"]
    assert any("compact" in note for note in item["notes"])
    assert document["reference"]["engine"] == "stored-scores"
