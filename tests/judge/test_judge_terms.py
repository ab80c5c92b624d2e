"""A judge that is made of another's terms says the same of the same samples."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.judge.gate_judge import GateJudge
from pytest_infopt.judge.terms import judge_of, terms_of
from pytest_infopt.metrics.budget import Budget
from pytest_infopt.metrics.metric import Metric, Rule, Unit

METRICS = (
    Metric("loss", Unit.NATS, Rule.MEAN, "a mean"),
    Metric("agreement", Unit.SHARE, Rule.MEAN, "a share", higher_is_better=True),
    Metric("ratio", Unit.RATIO, Rule.SIGN, "a ratio"),
    Metric("tail_p90", Unit.NATS, Rule.EXCEEDANCE, "a tail", quantile=0.9, single_valued=True),
    Metric("count", Unit.COUNT, Rule.WORST, "a count", self_comparison=True),
)
LIMITS = {"loss": 0.1, "agreement": 0.9, "ratio": 1.1, "tail_p90": 0.5, "count": 0.0}
share = st.floats(0, 1)
samples = st.lists(
    st.fixed_dictionaries(
        {
            "loss": st.floats(0, 10),
            "agreement": share,
            "ratio": st.floats(-1, 1),
            "tail_p90": st.lists(share, min_size=1, max_size=1),
            "count": st.sampled_from([0.0, 0.0, 1.0]),
        }
    ),
    max_size=40,
)


@given(
    limited=st.sets(st.sampled_from(sorted(LIMITS))),
    alphas=st.tuples(st.sampled_from([0.01, 0.05]), st.sampled_from([0.001, 0.01])),
    flags=st.tuples(st.booleans(), st.booleans(), st.sampled_from(["", "it did not FAIL"])),
    seen=samples,
)
def test_terms_that_went_through_json_make_the_same_judge(limited, alphas, flags, seen) -> None:
    by_name = {metric.name: metric for metric in METRICS}
    first = GateJudge(
        METRICS,
        {name: Budget(by_name[name], LIMITS[name], origin="here:3") for name in limited},
        alpha_pass=alphas[0],
        alpha_fail=alphas[1],
        planned=40,
        samples="documents",
        identical_outputs_pass=flags[0],
        every_metric=flags[1],
        undecided_passes=flags[2],
    )
    second = judge_of(json.loads(json.dumps(terms_of(first))))
    for index, values in enumerate(seen):
        for judge in (first, second):
            judge.update(values, identical=index % 2 == 0, weight=7)
        assert first.decided is second.decided
    assert first.state() == second.state()
    for exhausted in (False, True):
        assert repr(first.judgements(exhausted)) == repr(second.judgements(exhausted))


def test_what_is_undecided_passes_where_that_is_enough() -> None:
    ratio = METRICS[2]
    judge = GateJudge(
        [ratio],
        {"ratio": Budget(ratio, 1.1)},
        alpha_pass=0.01,
        alpha_fail=0.01,
        planned=100,
        undecided_passes="not FAIL",
    )
    judge.update({"ratio": 0.0})
    (one,) = judge.judgements(exhausted=True)
    assert (one.verdict, one.reason) == ("PASS", "not FAIL")
    for _ in range(20):
        judge.update({"ratio": 1.0})
    (one,) = judge.judgements(exhausted=True)
    assert one.verdict == "FAIL"
