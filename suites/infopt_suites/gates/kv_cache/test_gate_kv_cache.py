"""KV cache: does a token come out of it as without it, and is it as large as it should be?

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, Judgement, Metric, Sample

from ..plans import CachesPlan, EquivalencePlan
from .gate import LONG, OUTPUTS, SIZE, SPEED_UP

if TYPE_CHECKING:
    from .measure import KvCacheMeasure

pytestmark = pytest.mark.infopt_gate("kv-cache")


def test_kv_cache(infopt_gate: GateRun[KvCacheMeasure]) -> None:
    """Stepwise, chunked, ragged and rolled-back decoding keep to the dtype's own error; bytes held
    are those of the formula at every length and batch size.

    At the end of a long prompt, too, and nothing of the cache is coarser than its dtype.
    Where one way alone is wrong, its name says what to look at (``details.errors``): padding and
    positions for the ragged batch, the mask's corner for chunked prefill, ``crop`` for what was
    taken back. The reports have what a step costs with and without the cache, and its memory.
    What a step saves is judged where it has a limit.
    """
    measure = infopt_gate.measure
    prompts = infopt_gate.plan(CachesPlan).prompts_of(infopt_gate.plan(EquivalencePlan))
    judgements = infopt_gate.collect(
        range(prompts), measure.prompt, planned=prompts, metrics=OUTPUTS
    )
    phases: dict[str, tuple[Callable[[], Sample], Sequence[Metric]]] = {
        "long prompt": (measure.long_prompt, LONG),
        "growth": (measure.growth, [SIZE]),
    }
    for phase, (measured, metrics) in phases.items():
        if infopt_gate.failed:
            break
        judgements += infopt_gate.collect(
            [measured], lambda measured: measured(), planned=1, phase=phase, metrics=metrics
        )
        infopt_gate.judgements = judgements
    infopt_gate.show_samples("errors", "mismatches", "left_out")
    if SPEED_UP.name in infopt_gate.budgets and not infopt_gate.failed:
        infopt_gate.judgements = [*judgements, *timed(infopt_gate)]
    infopt_gate.conclude()


def timed(gate: GateRun[KvCacheMeasure]) -> list[Judgement]:
    """What a step saves by the cache, in pairs drawn by a coin."""
    if distrust := gate.timing_distrust:
        return gate.undecided({SPEED_UP.name: gate.budgets[SPEED_UP.name]}, distrust)
    pairs, measure = gate.plan(CachesPlan).step_pairs, gate.measure
    return gate.collect(
        range(pairs),
        lambda index: measure.step_pair(index, gate.coin(index)),
        planned=pairs,
        seconds=gate.seconds,
        phase="pairs",
        metrics=[SPEED_UP],
    )
