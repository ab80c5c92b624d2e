"""The self-check: the reference in a candidate's place. It judges the runner."""

from dataclasses import replace

from pytest_infopt import Budget, Candidate, Capability, GateSpec, Release, Unit

from ..plans import LatencyPlan
from ..timing import METRICS, TIMING_SECONDS

RATIOS = frozenset(metric.name for metric in METRICS if metric.unit is Unit.RATIO)
NOTICEABLE = 1.5  # a slow-down that a runner must tell from none if it is to time anything


def subjects(release: Release) -> list[Candidate]:
    """The reference, where any candidate is timed: judged by the tightest of the candidates'
    ratios, none looser than a slow-down that every runner has to notice."""
    tightest: dict[str, Budget] = {}
    for candidate in release.candidates:
        for name in candidate.budgets.keys() & RATIOS:
            budget = candidate.budgets[name]
            if name not in tightest or budget.limit < tightest[name].limit:
                tightest[name] = replace(budget, limit=min(budget.limit, NOTICEABLE))
    if not tightest:
        return []
    ordered = {m.name: tightest[m.name] for m in METRICS if m.name in tightest}
    name = f"{release.reference.name} (itself)"
    return [Candidate(replace(release.reference, name=name), ordered)]


GATE = GateSpec(
    package=__package__,
    name="self-check",
    summary="This runner can be trusted to time, and to notice a slow-down.",
    order=10,
    samples="pairs of requests",
    plans=(LatencyPlan,),
    requires=frozenset({Capability.STREAM}),
    subjects=subjects,
    follows_baselines=False,
    budget_seconds=TIMING_SECONDS,
    metrics=(),  # those of the gate whose verdicts it guards
)
