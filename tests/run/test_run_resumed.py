"""An undecided run that is resumed comes to the uninterrupted run's verdict, bit for bit."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tiny_models import VOCABULARY

from pytest_infopt.run.exit_status import ExitStatus

GATES = ("-k", "quality or tasks")
# A gate whose time is up after its first sample, however fast the machine.
NO_TIME = "--infopt-budget-seconds=1e-9"


@pytest.fixture
def task(tmp_path: Path) -> Path:
    words, path = random.Random(4), tmp_path / "words.jsonl"
    items = []
    for index in range(40):
        choices = [f"w{n}" for n in words.sample(range(VOCABULARY), 4)]
        question = " ".join(f"w{words.randrange(VOCABULARY)}" for _ in range(6))
        items.append({"id": f"{index}", "question": question, "choices": choices, "answer": "A"})
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def measured(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Every judgement, without what tells one run from another."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in document["gates"]]


def test_a_resumed_run_has_the_uninterrupted_runs_numbers(
    gate, result, task: Path, pytester: pytest.Pytester
) -> None:
    run = {
        "candidates": {"half": 'dtype = "bfloat16"'},
        "more": f'[tasks]\nfiles = ["{task}"]\n',
        "budgets": "kl_mean = 0.004\ntask_accuracy_loss = 0.4\n",
    }
    whole = gate(*GATES, **run)
    expected = result()
    assert len(expected["items"]) == 2
    cut = gate(*GATES, NO_TIME, **run)
    assert cut.ret == ExitStatus.INCONCLUSIVE
    undecided = result()
    assert undecided["run_id"] != expected["run_id"]
    assert all(row["clusters"] <= 1 for row in measured(undecided))
    again = gate(*GATES, "--infopt-resume=latest", **run)
    resumed = result()
    assert resumed["run_id"] == undecided["run_id"]
    assert again.ret == whole.ret
    assert measured(resumed) == measured(expected)
    assert {row["metric"] for row in measured(resumed)} >= {"kl_mean", "task_accuracy_loss"}
