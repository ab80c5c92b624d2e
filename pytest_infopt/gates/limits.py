"""Which limits a gate has: its defaults, and what was written over them.

A gate that nobody asked for, by a limit, a setting or its name, and that an engine cannot serve,
does not apply: it has no default limits there, so it judges nothing, and plan and reports say so.
What somebody asked for keeps its limits: it is NOT RUN, and the run is INCONCLUSIVE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from ..engines.formats import format_of
from ..engines.weight_precision import Precision
from ..errors import ConfigurationError
from ..metrics.budget import Budget
from ..metrics.metric import Metric, Unit
from ..release import Candidate, ModelSource, Release
from . import registry
from .base import BudgetContext, GateSpec, Unable
from .plan import Plan

Written = Mapping[str, Budget | None]  # by metric; None where a default was switched off


def candidate_limits(
    plans: Iterable[Plan],
    source: ModelSource,
    reference: ModelSource,
    precision: Precision,
    written: Written,
    *,
    served: bool,
    drafted: bool,
    parameters: int | None,
) -> dict[str, Budget]:
    """A candidate's limits by metric; the defaults are those of its precision, and of a reference
    of about so many parameters."""
    plans, budgets, source = tuple(plans), dict[str, Budget](), _with_sound_options(source)
    for spec in registry.gates().values():
        if not spec.per_release and spec.asked_for(plans, source):
            context = BudgetContext(
                source, reference, precision, dict(budgets), served, drafted, parameters, written
            )
            budgets |= gate_limits(spec, written, context, f"default for {precision.summary}")
    return budgets


def _with_sound_options(source: ModelSource) -> ModelSource:
    """The source, without options that its loader is going to refuse: the plan tells of them, and
    no default can follow from them."""
    try:
        format_of(source.quantization).check_options(source.options)
    except ConfigurationError:
        return replace(source, options={})
    return source


def gate_limits(
    spec: GateSpec, written: Written, context: BudgetContext, origin: str
) -> dict[str, Budget]:
    """The limits of one gate, in the order of its metrics."""
    applies = not _unasked(spec, context.candidate, context.reference)
    defaults = spec.default_budgets(context) if applies else {}
    limits: dict[str, Budget | None] = {
        metric.name: _default(metric, defaults[metric.name], origin)
        for metric in spec.metrics
        if metric.name in defaults
    }
    limits |= {name: written[name] for name in spec.metric_names & written.keys()}
    ordered = ((metric.name, limits.get(metric.name)) for metric in spec.metrics)
    return {name: budget for name, budget in ordered if budget is not None}


def _default(metric: Metric, limit: float, origin: str) -> Budget:
    """A gate's default; on bytes it is a share of the reference's, unless it is 0."""
    return Budget(metric, limit, metric.unit is Unit.BYTES and limit != 0, origin)


def _unasked(spec: GateSpec, candidate: ModelSource, reference: ModelSource) -> Unable | None:
    """The engine to which the gate does not apply unless somebody asks for it; None for none."""
    return spec.unable(candidate, reference) if spec.comes_by_itself else None


def not_applicable(candidate: Candidate, reference: ModelSource) -> dict[str, Unable]:
    """The gates, by name, that would judge the candidate by default if its engine and the
    reference's could serve them."""
    found = {}
    for spec in registry.gates().values():
        if spec.subjects is None and not spec.limits_among(candidate.budgets):
            unable = _unasked(spec, candidate.source, reference)
            if unable is not None:
                found[spec.name] = unable
    return found


def not_applicable_lines(release: Release) -> Iterator[str]:
    """What does not apply, a sentence for each candidate and engine."""
    for candidate in release.candidates:
        by_engine: dict[str, list[str]] = {}
        for name, (engine, lacks) in not_applicable(candidate, release.reference).items():
            by_engine.setdefault(engine, []).append(f"{name} needs {lacks}")
        for engine, gates in by_engine.items():
            yield f"{candidate.name}: not applicable to engine {engine}: {'; '.join(gates)}"
