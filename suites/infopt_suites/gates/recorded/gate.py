"""Recorded: what other tools measured of reference and candidate, from their result files."""

from dataclasses import dataclass

from pytest_infopt import BudgetContext, Capability, GateSpec, Metric, Plan, Rule, Unit, setting
from pytest_infopt.engines.registry import engine_named


@dataclass(frozen=True)
class RecordedPlan(Plan):
    """How the sessions and tasks in the files were measured."""

    blocks: bool = setting(
        False,
        "The sessions alternated: each of the candidate's ran right before or after one of the "
        "reference's, in an order drawn by a coin. The first two are a block, and so on, by the "
        "times in the files, or else in the files' order. Without blocks no time is judged.",
    )
    tasks: tuple[str, ...] = setting(
        (), "Tasks that count, as the report calls them; none: all that are in the files."
    )


_TIMES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "inter-token latency",
    "e2e": "request sent to last token",
}
RATIOS = {
    stem: Metric(
        f"recorded_{stem}_ratio",
        Unit.RATIO,
        Rule.SIGN,
        f"a session's median {what}, candidate / reference, median over blocks",
    )
    for stem, what in _TIMES.items()
}
THROUGHPUT = Metric(
    "recorded_throughput_ratio",
    Unit.RATIO,
    Rule.SIGN,
    "a session's tokens a second, candidate / reference, median over blocks",
    higher_is_better=True,
)
OF_SESSIONS = (*RATIOS.values(), THROUGHPUT)
LOSS = Metric(
    "recorded_accuracy_loss",
    Unit.SHARE,
    Rule.PAIRED,
    "accuracy that the candidate loses on a recorded task, reference − candidate; the worst task",
)


def default_budgets(context: BudgetContext) -> dict[str, float]:
    """As gates that measure have them. A model that can be asked is not compared with records."""
    sources = (context.candidate, context.reference)
    kinds = (engine_named(source.engine).capabilities for source in sources)
    if not all(Capability.RECORDED in capabilities for capabilities in kinds):
        return {}
    slower = {RATIOS[stem].name: 1.10 for stem in ("ttft", "tpot")}
    return slower | {THROUGHPUT.name: 0.9, LOSS.name: 0.02}


GATE = GateSpec(
    package=__package__,
    name="recorded",
    summary="What other tools measured, from their result files, keeps its limits.",
    order=88,
    samples="units",
    plans=(RecordedPlan,),
    default_budgets=default_budgets,
    follows_baselines=False,
    metrics=(*OF_SESSIONS, LOSS),
)
