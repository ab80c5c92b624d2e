"""What other numbers of drafted tokens would bring, by how many are accepted.

Passes are timed over each number of new tokens, and the formula of `infopt_reference.decoding`
does the rest: a pass over k + 1 tokens costs more than one over one, on a CPU much more.

PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

from collections.abc import Sequence

from infopt_reference.decoding import (
    PassCosts,
    expected_speed_up,
    implied_acceptance,
)

from pytest_infopt import MeasuredTable, Plot, Sample
from pytest_infopt.engines.base import BatchEngine

LOOKAHEADS = (1, 2, 3, 4, 6, 8)  # drafted tokens
ACCEPTANCES = (0.4, 0.6, 0.8)
_ROUNDS = 2  # of each pass; the faster one counts


def measure_pass_costs(target: BatchEngine, draft: BatchEngine | None, context: int) -> PassCosts:
    """Seconds of the target's passes behind ``context`` tokens, and of one of the draft's over one
    token; without a draft model that costs nothing."""
    seconds = {k + 1: _seconds(target, context, k + 1) for k in (0, *LOOKAHEADS)}
    return PassCosts(seconds.__getitem__, 0.0 if draft is None else _seconds(draft, context, 1))


def _seconds(engine: BatchEngine, context: int, size: int) -> float:
    return min(engine.pass_seconds(1, context, size) for _ in range(_ROUNDS))


def lookahead_table(costs: PassCosts, samples: Sequence[Sample], lookahead: int) -> MeasuredTable:
    """The speed-up that follows from these costs for each number of drafted tokens, at the
    acceptance that the samples imply and at others."""
    tokens, passes = (sum(s.details[name] for s in samples) for name in ("tokens", "passes"))
    observed = implied_acceptance(min(max(tokens / passes, 1.0), lookahead + 1.0), lookahead)
    plain = costs.target(1)
    acceptances = {f"observed {observed:.2f}": observed}
    acceptances |= {f"{acceptance:g}": acceptance for acceptance in ACCEPTANCES}
    rows = tuple(
        (
            k,
            name,
            expected_speed_up(acceptance, k, costs.draft / plain, costs.target(k + 1) / plain),
        )
        for name, acceptance in acceptances.items()
        for k in LOOKAHEADS
    )
    most = LOOKAHEADS[-1] + 1
    columns = ("drafted tokens a pass", "acceptance", "speed-up")
    notes = (
        f"a draft's pass takes {costs.draft / plain:.2f} of the target's, and a pass over "
        f"{most} tokens {costs.target(most) / plain:.2f} of one over one",
    )
    plot = Plot(columns[0], columns[2:], "speed-up, by formula", group="acceptance", limit=1.0)
    return MeasuredTable("speed-up by drafted tokens and acceptance", columns, rows, notes, plot)
