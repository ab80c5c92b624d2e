"""KV cache: does a token come out of it as without it, and is it as large as it should be?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun, Metric, Sample

from ..plans import CachesPlan, EquivalencePlan
from .gate import LONG, OUTPUTS, SIZE

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
    infopt_gate.conclude()
