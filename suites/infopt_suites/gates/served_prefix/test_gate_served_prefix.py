"""Served prefix: does a server's prefix cache leave its answers alone, and does it take part?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .gate import SAVED, ServedPrefixPlan

if TYPE_CHECKING:
    from .measure import ServedPrefixMeasure

pytestmark = pytest.mark.infopt_gate("served-prefix")


def test_served_prefix(infopt_gate: GateRun[ServedPrefixMeasure]) -> None:
    """A server answers behind a beginning that its prefix cache has as it does without.

    Its counts of cached tokens are the proof that the cache took part: there is no PASS without
    them. The reports have the times to the first token, cold and warm.
    """
    prompts, measure = infopt_gate.plan(ServedPrefixPlan).asked, infopt_gate.measure
    infopt_gate.collect(range(prompts), measure.prompt, planned=prompts)
    if not any(SAVED.name in sample.values for sample in infopt_gate.samples):
        infopt_gate.note(
            [
                f"{SAVED.name} is not known: the server does not report cached tokens; vLLM does "
                "with --enable-prompt-tokens-details"
            ]
        )
    infopt_gate.show(measure.served_table(infopt_gate.samples))
    infopt_gate.conclude()
