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
    budgets = f"throughput_ratio = {limit}\n"
    if verdict == "PASS":  # 9 pairs of 2 models at 2 concurrencies: 2 requests of 2 tokens each
        plan = gate("--collect-only", more=PLAN, budgets=budgets)
        plan.stdout.fnmatch_lines(["throughput: 9 pairs of loads,* 144 tokens *: 1 s at 100 *"])
        plan.stdout.fnmatch_lines(["*; 30 s (budget_seconds) are enough from 5 a second"])
    run = gate("-k", "throughput", more=PLAN, budgets=budgets)
    assert run.ret == status
    (item,) = result()["items"]
    (table,) = item["details"]["tables"]
    assert [row[0] for row in table["rows"]] == [1, 2]
    assert {r["metric"]: r["verdict"] for r in result()["gates"]} == {"throughput_ratio": verdict}
