"""The gate on the model behind an address, in whole runs."""

from __future__ import annotations

from typing import Any

import pytest
from openai_server_fake import Behaviour, openai_server
from test_run_endpoint import model, served

from pytest_infopt.run.exit_status import ExitStatus

NAMED = ("--pyargs", "infopt_suites.gates.same_model")
READ = {"vllm": "same_model_distance", "text": "same_model_changes"}


def in_four_bits(module: Any) -> None:
    """Another model behind the name: the reference's weights, rounded to four bits a row."""
    for weight in module.parameters():
        scale = weight.data.abs().amax(-1, keepdim=True) / 7
        weight.data = (weight.data / scale).round() * scale


@pytest.mark.parametrize("dialect", READ)
@pytest.mark.parametrize("other", [False, True])
def test_another_model_behind_the_name_fails(
    gate: Any, result: Any, damaged: Any, tiny_reference: Any, dialect: str, other: bool
) -> None:
    there = damaged("other", in_four_bits) if other else tiny_reference
    with openai_server(model(there), Behaviour(dialect)) as server:
        run = gate(*NAMED, candidates={"served": served(server.url)}, named=True)
        asked = len(server.prompts)
    assert run.ret == (ExitStatus.FAILED if other else ExitStatus.PASSED)
    document = result()
    (row,) = document["gates"]
    assert (row["metric"], row["verdict"]) == (READ[dialect], "FAIL" if other else "PASS")
    assert row["n"] <= asked
    (item,) = document["items"]
    assert len(item["findings"]) > 0 or not other


def test_a_limit_on_what_no_server_tells_is_no_pass(
    gate: Any, result: Any, tiny_reference: Any
) -> None:
    with openai_server(model(tiny_reference), Behaviour("text")) as server:
        limit = "same_model_distance = 2"
        run = gate(*NAMED, candidates={"served": served(server.url)}, budgets=limit, named=True)
    assert run.ret == ExitStatus.INCONCLUSIVE
    rows = {row["metric"]: row for row in result()["gates"]}
    assert rows["same_model_changes"]["verdict"] == "PASS"
    assert rows["same_model_distance"]["reason"] == "the server tells no log-probabilities"
