"""Prefix cache: does a cached beginning leave the outputs alone, and what does it save?"""

import pytest

from pytest_infopt.run.gate_run import GateRun

pytestmark = pytest.mark.infopt_gate("prefix-cache")


def test_prefix_cache(infopt_gate: GateRun) -> None:
    """A prompt served warm, partly warm or after eviction comes out as when served cold.

    Where the release names the candidate's server, its own prefix cache is asked. Else the model
    runs behind the reference's paged cache, so that a failure is the model's: keys and values of a
    prefix that depend on what follows it. The reports have what is saved.
    """
    if infopt_gate.candidate.server is None:
        behind_the_reference(infopt_gate)
    else:
        on_the_server(infopt_gate)
    infopt_gate.conclude()


def behind_the_reference(gate: GateRun) -> None:
    prompts = gate.release.cache_prompts
    gate.collect(range(prompts), gate.bench.measure_prefix_prompt, planned=prompts)
    gate.show_samples("errors", "mismatches", "cached_tokens")
    gate.show(gate.bench.shared_prompt_table())


def on_the_server(gate: GateRun) -> None:
    server, chats = gate.candidate.server, gate.release.caches.requests
    assert server is not None
    gate.collect(
        range(chats), lambda index: gate.bench.measure_served_chat(server, index), planned=chats
    )
    gate.show(gate.bench.served_table(gate.samples))
