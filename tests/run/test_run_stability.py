"""The stability gate in a run: what changes in a session fails, whatever other gates say."""

from __future__ import annotations

import pytest

from pytest_infopt.run.exit_status import ExitStatus

LOADERS = """
import torch
from torch import nn
from pytest_infopt.engines.loaders import load_float

def load_fading(request):
    module = load_float(request)
    calls = []

    def hook(part, args, output):
        calls.append(1)
        return output * 1.0001 if len(calls) > 15 else output

    module.model.layers[0].mlp.down_proj.register_forward_hook(hook)
    return module

def load_dropping(request):
    module = load_float(request)
    module.model.layers[1].mlp.register_forward_hook(
        lambda part, args, output: nn.functional.dropout(output, 0.002, training=True)
    )
    return module
"""


@pytest.fixture
def loaders(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(session_loaders=LOADERS)


def test_a_sound_candidate_is_stable(gate, result) -> None:
    run = gate("-k", "stability or kv_cache", candidates={"bf16": 'dtype = "bfloat16"'})
    assert run.ret == ExitStatus.PASSED
    (item,) = (item for item in result()["items"] if item["gate"] == "stability")
    assert item["details"]["passes"]["session"]["repeats"] >= 2


@pytest.mark.parametrize(
    ("loader", "metric", "where"),
    [
        (
            "load_fading",
            "session_differences",
            "in model.layers.0.mlp.down_proj, where a copy loaded anew computes as at the",
        ),
        ("load_dropping", "repeat_differences", "in model.layers.1.mlp"),
    ],
)
def test_what_changes_in_a_session_fails_and_is_named(
    gate, result, loaders: None, loader: str, metric: str, where: str
) -> None:
    run = gate(
        "-k",
        "stability or (quality and changing)",
        candidates={"changing": f'quantization = "session_loaders:{loader}"'},
        budgets="kl_mean = 0.01\ntop1_agreement = 0.5\nperplexity_ratio = 1.5",
    )
    assert run.ret == ExitStatus.FAILED
    rows = {row["metric"]: row["verdict"] for row in result()["gates"]}
    assert rows[metric] == "FAIL"
    assert rows["kl_mean"] == "PASS"
    (item,) = (item for item in result()["items"] if item["gate"] == "stability")
    assert any(where in note for note in item["notes"]), item["notes"]
