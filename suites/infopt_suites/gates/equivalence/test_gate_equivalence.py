"""Equivalence: does the candidate compute the function it claims to?

Errors are measured against the reference in wider arithmetic and allowed in proportion to what the
candidate's dtype costs a plain implementation; causality, the KV cache and padded batches are
checked within the candidate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from ..plans import EquivalencePlan

if TYPE_CHECKING:
    from .measure import EquivalenceMeasure

pytestmark = pytest.mark.infopt_gate("equivalence")


def test_equivalence(infopt_gate: GateRun[EquivalenceMeasure]) -> None:
    """Logits, greedy tokens, causality, cache and batch rows keep to the dtype's own error.

    ``causality``, ``cached`` or ``batch`` far above 2 is a defect of masks, positions or cache
    layout; ``logit_error_ratio`` alone above 2 says that the weights themselves differ. Where
    ``same_shape_differences`` is not 0, rows see each other, or a pass is not the same twice.
    """
    prompts = infopt_gate.plan(EquivalencePlan).prompts
    infopt_gate.collect(range(prompts), infopt_gate.measure.prompt, planned=prompts)
    infopt_gate.show_samples("same_shape", "paths", "left_out")
    infopt_gate.conclude()
