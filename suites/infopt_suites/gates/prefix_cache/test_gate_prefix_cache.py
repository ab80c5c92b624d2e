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

    Where the release names the candidate's server, its own prefix cache is asked, and its answers
    are held against the candidate's model. Else the model
    runs behind the reference's paged cache, so that a failure is the model's: keys and values of a
    prefix that depend on what follows it. The reports have what is saved.
    """
    if infopt_gate.candidate.server is None:
        behind_the_reference(infopt_gate)
    else:
        on_the_server(infopt_gate)
    infopt_gate.conclude()


def behind_the_reference(gate: GateRun[PrefixCacheMeasure]) -> None:
    prompts = gate.plan(CachesPlan).prompts_of(gate.plan(EquivalencePlan))
    gate.collect(range(prompts), gate.measure.prompt, planned=prompts)
    gate.show_samples("errors", "mismatches", "cached_tokens")
    gate.show(gate.measure.shared_prompt_table())


def on_the_server(gate: GateRun[PrefixCacheMeasure]) -> None:
    chats, measure = gate.plan(CachesPlan).requests, gate.measure
    gate.collect(range(chats), measure.served_chat, planned=chats)
    gate.show_samples("mismatches")
    for reason in {r for s in gate.samples for r in s.details["left_out"].values()}:
        gate.notes.append(f"prefix_saved_share is not known: {reason}")
    gate.show(measure.served_table(gate.samples))
