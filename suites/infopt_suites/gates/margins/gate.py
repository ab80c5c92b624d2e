"""Margins: the noise floor under them, by the reference in a candidate's place."""

from dataclasses import dataclass, replace

from pytest_infopt import (
    Budget,
    Candidate,
    Capability,
    GateSpec,
    Metric,
    Plan,
    Release,
    Rule,
    Unit,
    setting,
)

from ..plans import LatencyPlan


@dataclass(frozen=True)
class MarginsPlan(Plan):
    """What the noise floor is measured by, where --infopt-calibrate asks for it."""

    calibrate: bool = setting(False, "Measure the noise floor; see --infopt-calibrate.")
    instances: int = setting(4, "How often the models are loaded anew, and timed.", ge=2)
    pairs: int = setting(20, "Pairs of requests timed with each instance.", ge=9)
    documents: int = setting(6, "Documents that outputs are compared on.", ge=2)


BELOW = Metric(
    "limits_below_noise",
    Unit.COUNT,
    Rule.EXACT,
    "limits of the release that are below the noise floor of this machine",
)


def subjects(release: Release) -> list[Candidate]:
    """The reference, where the floor is asked for."""
    if not release.plan(MarginsPlan).calibrate:
        return []
    source = replace(release.reference, name=f"{release.reference.name} (floor)")
    return [Candidate(source, {BELOW.name: Budget(BELOW, 0.0)})]


GATE = GateSpec(
    package=__package__,
    name="margins",
    summary="No limit of the release is below what this machine shows when nothing was changed.",
    order=5,
    samples="readings",
    plans=(MarginsPlan, LatencyPlan),
    switch=(MarginsPlan, "calibrate"),
    requires=frozenset({Capability.SCORES}),
    subjects=subjects,
    follows_baselines=False,
    budget_seconds=600.0,
    metrics=(BELOW,),
)
