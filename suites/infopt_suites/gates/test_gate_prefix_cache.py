"""Prefix cache: is the model transparent to it, and what does it save?"""

import pytest

from pytest_infopt.gate import GateRun

pytestmark = pytest.mark.infopt_gate("prefix-cache")


def test_prefix_cache(infopt_gate: GateRun) -> None:
    """A prompt served warm, partly warm or after eviction comes out as when served cold.

    The model runs behind the reference's paged cache, so a failure is the model's: keys and values
    of a prefix that depend on what follows it. The reports have what a shared system prompt saves.
    """
    bench = infopt_gate.bench
    prompts = infopt_gate.release.cache_prompts
    infopt_gate.collect(range(prompts), bench.measure_prefix_prompt, planned=prompts)
    infopt_gate.show_samples("errors", "mismatches", "cached_tokens")
    infopt_gate.show(bench.shared_prompt_table())
    infopt_gate.conclude()
