"""What gates on answers share: when a PASS says nothing, and one judgement of several tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from pytest_infopt import Judgement, Verdict
from pytest_infopt.binomial import upper_bound

Named = Sequence[tuple[str, Sequence[Judgement]]]  # each task's name and judgements


def without_guesses(judgement: Judgement, chance: float, alpha: float, *, kept: bool) -> Judgement:
    """A PASS that shows nothing is none: where the reference hardly beats chance, a candidate that
    knows nothing would keep the limit, too. ``kept``: the limit is a share of the reference's
    accuracy, and not an accuracy lost."""
    if judgement.verdict is not Verdict.PASS:
        return judgement
    assert judgement.budget is not None
    right = round(judgement.details["reference_accuracy"] * judgement.n)
    least = 1 - upper_bound(judgement.n - right, judgement.n, alpha)
    if chance < judgement.budget * least if kept else least - chance > judgement.budget:
        return judgement
    return replace(
        judgement,
        verdict=Verdict.INCONCLUSIVE,
        reason=(
            f"the reference answers {100 * right / judgement.n:.3g} % of {judgement.n} items right "
            f"(at least {100 * least:.3g} %), chance {100 * chance:.3g} %: a candidate that knows "
            "nothing would keep the limit, too; take a task that the reference can do"
        ),
    )


def worst_of(tasks: Named, higher_is_better: Collection[str]) -> list[Judgement]:
    """One judgement for each metric: that of the task that decides, which the reason names."""
    names = dict.fromkeys(each.metric for _, judgements in tasks for each in judgements)
    return [_deciding(name, tasks, name in higher_is_better) for name in names]


def _deciding(metric: str, tasks: Named, higher_is_better: bool) -> Judgement:
    found = [(name, j) for name, judgements in tasks for j in judgements if j.metric == metric]

    def badness(pair: tuple[str, Judgement]) -> float:
        """Larger is worse; a task without a value is the worst."""
        value = pair[1].value
        return float("inf") if value is None else -value if higher_is_better else value

    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS, None):
        if some := [pair for pair in found if pair[1].verdict is verdict]:
            name, worst = max(some, key=badness)
            break
    return replace(worst, reason=f"{name}: {worst.reason}".rstrip(": "))
