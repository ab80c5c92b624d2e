"""The noise floor: measured on a real run, kept, and heeded by later ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.run.exit_status import ExitStatus

FLOOR = ("-k", "margins or quality", "--infopt-calibrate")
PLAN = "[margins]\ninstances = 2\npairs = 9\ndocuments = 3\n[latency]\nprompt_tokens = 8\n"
BF16 = 'dtype = "bfloat16"\n'


def floors(pytester: pytest.Pytester) -> dict[tuple[str, str], dict[str, Any]]:
    document = json.loads((pytester.path / ".infopt" / "noise-floor.json").read_text())
    return {(row["metric"], row["dtype"]): row for row in document["floors"]}


def test_the_floor_is_kept_with_what_it_comes_from(gate, result, pytester) -> None:
    run = gate(*FLOOR, candidates={"half": BF16}, more=PLAN, budgets="kl_mean = 0.5\n")
    assert run.ret in (ExitStatus.PASSED, ExitStatus.INCONCLUSIVE)
    found = floors(pytester)
    assert {metric for metric, _ in found} == {
        "kl_mean",
        "top1_agreement",
        "perplexity_ratio",
        *(f"{stem}_{kind}" for stem in ("ttft", "tpot", "e2e") for kind in ("ratio", "mean_ratio")),
    }
    rounding = found["kl_mean", "bfloat16"]
    assert rounding["cause"] == "dtype bfloat16"
    assert rounding["margin"] > found["kl_mean", ""]["margin"] >= 0
    assert rounding["proposed"] >= 2 * rounding["margin"]  # the factor of SPEC section 5
    assert rounding["device"] == "cpu"
    (item,) = (item for item in result()["items"] if item["gate"] == "margins")
    assert item["verdict"] == "PASS"
    (table,) = item["details"]["tables"]
    assert len(table["rows"]) == len(found)


def test_a_limit_below_the_floor_is_refused_now_and_later(gate, result, pytester) -> None:
    tight = {"candidates": {"half": BF16}, "more": PLAN, "budgets": "kl_mean = 1e-9\n"}
    run = gate(*FLOOR, **tight)
    assert run.ret == ExitStatus.HARNESS_ERROR
    (item,) = (item for item in result()["items"] if item["gate"] == "margins")
    assert "half: kl_mean ≤ 1e-09 nats is below the noise floor of cpu" in item["error"]
    assert "is proposed" in item["error"]
    later = gate("-k", "quality", **tight)
    assert later.ret == ExitStatus.INCONCLUSIVE
    (row,) = (row for row in result()["gates"] if row["metric"] == "kl_mean")
    assert row["verdict"] == "INCONCLUSIVE"
    assert "with nothing changed but the dtype bfloat16" in row["reason"]


def test_a_fail_beyond_the_floor_stays_one(gate, result, damaged, pytester) -> None:
    def damage(module: Any) -> None:
        module.model.layers[0].mlp.down_proj.weight.data.mul_(-1.0)

    lines = f'model = "{damaged("broken", damage)}"\n{BF16}'
    run = gate(*FLOOR, candidates={"half": lines}, more=PLAN, budgets="kl_mean = 1e-9\n")
    assert run.ret == ExitStatus.FAILED
    (row,) = (row for row in result()["gates"] if row["metric"] == "kl_mean")
    assert row["verdict"] == "FAIL"


def test_a_damaged_file_is_a_usage_error(gate, pytester: pytest.Pytester) -> None:
    folder: Path = pytester.path / ".infopt"
    folder.mkdir()
    (folder / "noise-floor.json").write_text('{"schema": 1, "floors": [{}]}')
    run = gate("-k", "quality")
    assert run.ret == pytest.ExitCode.USAGE_ERROR
    run.stderr.fnmatch_lines(["*is no file of noise floors*--infopt-calibrate*"])
