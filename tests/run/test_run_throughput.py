"""The throughput gate on tiny models in process; limits far from any time decide."""

from __future__ import annotations

import pytest

from pytest_infopt.run.exit_status import ExitStatus

PLAN = """
[throughput]
concurrency = [1, 2]
requests = 2
prompt_tokens = 8
new_tokens = 2
"""


@pytest.mark.parametrize(
    ("limit", "status", "verdict"),
    [("0.001", ExitStatus.PASSED, "PASS"), ("1000", ExitStatus.FAILED, "FAIL")],
)
def test_throughput_is_judged_in_pairs_of_loads(gate, result, limit, status, verdict) -> None:
    run = gate("-k", "throughput", more=PLAN, budgets=f"throughput_ratio = {limit}\n")
    assert run.ret == status
    (item,) = result()["items"]
    (table,) = item["details"]["tables"]
    assert [row[0] for row in table["rows"]] == [1, 2]
    assert {r["metric"]: r["verdict"] for r in result()["gates"]} == {"throughput_ratio": verdict}
