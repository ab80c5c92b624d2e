"""The gate on a server's prefix cache, in whole runs."""

from __future__ import annotations

from typing import Any

import pytest
from openai_server_fake import Behaviour, openai_server
from test_run_endpoint import model, served

from pytest_infopt.run.exit_status import ExitStatus

PLAN = "[served_prefix]\nprompts = 3\nprompt_tokens = 48\nnew_tokens = 4\n"
NAMED = ("--pyargs", "infopt_suites.gates.served_prefix")


def whole_blocks(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
    """A cache of blocks of 16 that answers as without one."""
    return (len(ids) - 1) // 16 * 16 if ids in before else 0, ids


@pytest.mark.parametrize("tells", [True, False])
def test_there_is_no_pass_without_counts(
    gate: Any, result: Any, tiny_reference: Any, tells: bool
) -> None:
    behaviour = Behaviour("vllm", cache=whole_blocks if tells else None)
    with openai_server(model(tiny_reference), behaviour) as server:
        run = gate(*NAMED, candidates={"served": served(server.url)}, more=PLAN, named=True)
    assert run.ret == (ExitStatus.PASSED if tells else ExitStatus.INCONCLUSIVE)
    document = result()
    rows = {row["metric"]: row["verdict"] for row in document["gates"]}
    assert rows["served_prefix_changes"] == rows["served_prefix_mismatches"] == "PASS"
    assert rows["served_prefix_saved_share"] == ("PASS" if tells else "INCONCLUSIVE")
    (item,) = document["items"]
    untold = any("does not report cached tokens" in note for note in item["notes"])
    assert untold is not tells


@pytest.mark.parametrize("sound", [True, False])
def test_the_server_that_a_candidate_in_process_names_is_asked_by_itself(
    gate: Any, result: Any, tiny_reference: Any, sound: bool
) -> None:
    """Nothing of [served_prefix] switches it on; its tokens are the candidate's, or not."""

    def cache(ids: list[int], before: list[list[int]]) -> tuple[int, list[int]]:
        cached, _ = whole_blocks(ids, before)
        return cached, ids if sound or len(ids) < 48 else [*ids[:-1], 0]

    with openai_server(model(tiny_reference), Behaviour("vllm", cache=cache)) as server:
        lines = f'server.url = "{server.url}"\n'
        plan = PLAN.replace("prompts = 3\n", "")
        run = gate(*NAMED, candidates={"served": lines}, more=plan, named=True)
    assert run.ret == (ExitStatus.PASSED if sound else ExitStatus.FAILED)
    rows = {row["metric"]: row for row in result()["gates"]}
    wanted = "PASS" if sound else "FAIL"
    assert rows["served_prefix_mismatches"]["verdict"] == wanted
    assert rows["served_prefix_mismatches"]["clusters"] == (4 if sound else 1)
    assert rows["served_prefix_ttft_ratio"]["budget"] is None


def test_a_server_that_computes_everything_again_fails(
    gate: Any, result: Any, tiny_reference: Any
) -> None:
    behaviour = Behaviour("vllm", cache=lambda ids, before: (0, ids))
    with openai_server(model(tiny_reference), behaviour) as server:
        run = gate(*NAMED, candidates={"served": served(server.url)}, more=PLAN, named=True)
    assert run.ret == ExitStatus.FAILED
    failed = [row["metric"] for row in result()["gates"] if row["verdict"] == "FAIL"]
    assert failed == ["served_prefix_saved_share"]
