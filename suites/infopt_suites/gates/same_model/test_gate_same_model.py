"""Same model: is what answers at a server the reference's model?

The unit is a request of one token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_infopt import GateRun

from .gate import CHANGES, DISTANCE

if TYPE_CHECKING:
    from .measure import SameModelMeasure

pytestmark = pytest.mark.infopt_gate("same-model")


def test_same_model(infopt_gate: GateRun[SameModelMeasure]) -> None:
    """A server tells of one token what the reference's weights in 16 bit do, or nearly so.

    Where it tells no log-probabilities, its tokens are compared behind inputs that another model
    turns over about every second time, and rounding does not.
    """
    measure, limits = infopt_gate.measure, infopt_gate.budgets
    judgements = []
    told = measure.tells_log_probabilities()
    if told:
        judgements += infopt_gate.collect(
            range(measure.prompts()),
            measure.first_token,
            planned=measure.prompts(),
            phase="first tokens",
            metrics=[DISTANCE],
        )
    elif DISTANCE.name in limits and not limits[DISTANCE.name].is_default:
        judgements += infopt_gate.collect(
            [0], measure.untold, planned=1, phase="untold", metrics=[DISTANCE]
        )
    asked_for = CHANGES.name in limits and not limits[CHANGES.name].is_default
    if not infopt_gate.failed and (asked_for or not told):
        judgements += infopt_gate.collect(
            range(measure.borders()),
            measure.border_input,
            planned=max(1, measure.borders()),
            phase="border inputs",
            metrics=[CHANGES],
        )
    infopt_gate.judgements = judgements
    read = "first-token log-probabilities" if told else "border inputs: it tells tokens alone"
    infopt_gate.note([f"told by {read}"])
    infopt_gate.show_samples()
    infopt_gate.conclude()
