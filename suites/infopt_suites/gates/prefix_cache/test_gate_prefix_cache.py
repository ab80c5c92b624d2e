"""Prefix cache: does a cached beginning leave the outputs alone, and what does it save?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from ..plans import CachesPlan, EquivalencePlan

if TYPE_CHECKING:
    from .measure import PrefixCacheMeasure

pytestmark = pytest.mark.infopt_gate("prefix-cache")


def test_prefix_cache(infopt_gate: GateRun[PrefixCacheMeasure]) -> None:
    """A prompt served warm, partly warm or after eviction comes out as when served cold.

    The model runs behind the reference's paged cache, so that a failure is the model's: keys and
    values of a prefix that depend on what follows it. The reports have what is saved.
    """
    gate = infopt_gate
    prompts = gate.plan(CachesPlan).prompts_of(gate.plan(EquivalencePlan))
    gate.collect(range(prompts), gate.measure.prompt, planned=prompts)
    gate.show_samples("errors", "mismatches", "cached_tokens")
    gate.show(gate.measure.shared_prompt_table())
    gate.conclude()
