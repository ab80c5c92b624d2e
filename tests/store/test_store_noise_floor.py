"""Margins and limits: inverse to each other, and rounded away from the floor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.gates.registry import metrics
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.results.verdict import Judgement, Verdict
from pytest_infopt.store.noise_floor import (
    Floor,
    NoiseFloors,
    above_noise,
    limit_of,
    margin_of,
    refusal,
)

JUDGED = ("kl_mean", "top1_agreement", "ttft_ratio", "perplexity_ratio")


def floor(metric: str, margin: float = 0.02, dtype: str = "") -> Floor:
    proposed = limit_of(metrics()[metric], 2 * margin)
    return Floor(metric, dtype, margin, proposed, "instance", "cpu", "model", "run", "2026-01-01")


@pytest.mark.parametrize("name", JUDGED)
@given(margin=st.floats(1e-9, 0.5))
def test_a_proposed_limit_allows_the_margin_and_hardly_more(name: str, margin: float) -> None:
    metric = metrics()[name]
    allowed = margin_of(metric, limit_of(metric, margin))
    assert allowed >= margin * (1 - 1e-9) - 1e-12  # limits are kept to twelve digits
    assert allowed <= 1.1 * margin + 1e-11


@pytest.mark.parametrize("name", JUDGED)
def test_only_what_is_below_the_floor_is_refused(name: str) -> None:
    metric, known = metrics()[name], floor(name)
    below, above = (Budget(metric, limit_of(metric, m)) for m in (0.01, 0.03))
    assert "instance" in refusal(below, known)
    assert refusal(above, known) == "" == refusal(below, None)
    for verdict in (Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, None):
        judged = Judgement(name, limit_of(metric, 0.015), 9, 9, verdict, below.limit)
        held = verdict in (Verdict.PASS, Verdict.FAIL)
        found = above_noise(judged, below, known)
        assert found.verdict == (Verdict.INCONCLUSIVE if held else verdict)
        assert above_noise(judged, above, known) == judged
    far = Judgement(name, limit_of(metric, 0.2), 9, 9, Verdict.FAIL, below.limit)
    assert above_noise(far, below, known).verdict is Verdict.FAIL
    unknown = replace(far, value=float("nan"))
    assert above_noise(unknown, below, known).verdict is Verdict.FAIL


def test_floors_are_those_of_device_reference_and_dtype(tmp_path: Path) -> None:
    path = tmp_path / "noise-floor.json"
    NoiseFloors(path).keep([floor("kl_mean"), floor("kl_mean", 0.1, "bfloat16")])
    NoiseFloors.load(path).keep([replace(floor("kl_mean", 0.5), device="H100")])
    found = NoiseFloors.load(path)
    assert found.of("kl_mean", "cpu", "float32", "model") == floor("kl_mean")
    assert found.of("kl_mean", "cpu", "bfloat16", "model") == floor("kl_mean", 0.1, "bfloat16")
    assert found.of("kl_mean", "cpu", "float32", "another") is None
    assert found.of("top1_agreement", "cpu", "float32", "model") is None
    measured_again = floor("kl_mean", 0.001)
    found.keep([measured_again])
    assert NoiseFloors.load(path).of("kl_mean", "cpu", "float32", "model") == measured_again
