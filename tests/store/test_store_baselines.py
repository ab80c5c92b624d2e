"""Baselines: limits only ever tighten, unless somebody says why not."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_infopt.gates.registry import metrics
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.verdict import Judgement, Verdict
from pytest_infopt.store.baselines import BaselineError, Baselines, Entry, Provenance, far_bound

NOW = Provenance("r1", "2026-11-22", "0.1.0", "model-a", "corpus-a", "float32", "cpu")
metric_names = st.sampled_from(["kl_mean", "top1_agreement", "perplexity_ratio", "sqnr_db"])
bounds = st.floats(0.001, 1000).flatmap(
    lambda low: st.tuples(st.just(low), st.floats(low, 2000))
)  # fmt: skip


def passed(metric: str, low: float, high: float, budget: float | None = None) -> GateResult:
    middle = (low + high) / 2
    judgement = Judgement(metric, middle, 10, 5, Verdict.PASS, budget, (low, high))
    return GateResult("quality", "nf4", 1.0, [judgement])


def empty(path: str | Path = "baselines.json") -> Baselines:
    return Baselines(Path(path))


def limit_of(baselines: Baselines, device: str, candidate: str, metric: str) -> float | None:
    entry = baselines.entry_for(device, candidate, metric)
    return entry.limit if entry else None


def better(metric: str, one: float, other: float) -> float:
    return max(one, other) if metrics()[metric].higher_is_better else min(one, other)


@given(metric_names, st.lists(bounds, min_size=1, max_size=6))
def test_the_limit_is_the_tightest_far_bound_seen(
    metric: str, intervals: list[tuple[float, float]]
) -> None:
    baselines = empty()
    expected: float | None = None
    for low, high in intervals:
        far = low if metrics()[metric].higher_is_better else high
        changed = baselines.tighten(passed(metric, low, high), NOW)
        tighter = expected is None or (better(metric, far, expected) == far != expected)
        expected = far if expected is None else better(metric, far, expected)
        assert bool(changed) == tighter
        assert limit_of(baselines, "cpu", "nf4", metric) == expected


def test_the_first_limit_has_to_be_tighter_than_the_budget() -> None:
    baselines = empty()
    assert baselines.tighten(passed("kl_mean", 0.01, 0.05, budget=0.05), NOW) == []
    (entry,) = baselines.tighten(passed("kl_mean", 0.01, 0.04, budget=0.05), NOW)
    assert (entry.limit, entry.provenance, entry.history) == (0.04, NOW, ())


@pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ERROR, None])
def test_only_what_passed_sets_a_limit(verdict: Verdict | None) -> None:
    result = passed("kl_mean", 0.01, 0.02)
    judgement = replace(result.judgements[0], verdict=verdict)
    assert empty().tighten(replace(result, judgements=[judgement]), NOW) == []


def test_a_gate_that_broke_sets_no_limit() -> None:
    assert empty().tighten(replace(passed("kl_mean", 0.01, 0.02), error="lost"), NOW) == []


@pytest.mark.parametrize(
    ("metric", "value", "interval", "expected"),
    [
        ("kl_mean", 0.5, (0.25, 0.75), 0.75),
        ("top1_agreement", 0.5, (0.25, 0.75), 0.25),
        ("kl_mean", 0.5, (0.25, math.inf), None),
        ("sqnr_db", 40.0, (-math.inf, 50.0), None),
        ("kl_mean", 0.5, None, None),  # an estimate without interval bounds nothing
        ("kl_max", 0.5, None, None),
        ("weight_bytes", 1024.0, None, 1024.0),  # exact
        ("weight_bytes", None, None, None),
        ("my_metric", 0.5, (0.25, 0.75), None),  # which way is worse?
    ],
)
def test_far_bound(
    metric: str,
    value: float | None,
    interval: tuple[float, float] | None,
    expected: float | None,
) -> None:
    assert far_bound(Judgement(metric, value, 1, 1, interval=interval)) == expected


def test_devices_and_candidates_have_their_own_limits() -> None:
    baselines = empty()
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    baselines.tighten(passed("kl_mean", 0.01, 0.5), replace(NOW, device="cuda"))
    baselines.tighten(replace(passed("kl_mean", 0.01, 0.3), candidate="int8"), NOW)
    assert limit_of(baselines, "cpu", "nf4", "kl_mean") == 0.02
    assert limit_of(baselines, "cuda", "nf4", "kl_mean") == 0.5
    assert limit_of(baselines, "cpu", "int8", "kl_mean") == 0.3
    assert limit_of(baselines, "cpu", "nf4", "kl_p99") is None


@pytest.mark.parametrize("field", [f.name for f in fields(Provenance)])
def test_mismatch_names_what_makes_limits_incomparable(field: str) -> None:
    baselines = empty()
    (entry,) = baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    other = replace(NOW, **{field: "other"})
    harmless = {"run_id", "date", "version", "software"}
    assert Baselines.mismatch(entry, other) == ([] if field in harmless else [field])


@pytest.mark.parametrize("field", ["model_fingerprint", "corpus_fingerprint", "dtype"])
def test_tightening_across_a_mismatch_is_refused_and_changes_nothing(field: str) -> None:
    baselines = empty()
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    before = baselines.to_text()
    both = passed("kl_mean", 0.001, 0.002)
    both.judgements.insert(0, passed("perplexity_ratio", 1.0, 1.01).judgements[0])
    with pytest.raises(BaselineError, match=rf"kl_mean of nf4 on cpu.*another {field}.*r1"):
        baselines.tighten(both, replace(NOW, **{field: "other"}))
    assert baselines.to_text() == before


@pytest.mark.parametrize("reason", ["", " ", "\n\t"])
def test_loosening_needs_a_reason(reason: str) -> None:
    baselines = empty()
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    with pytest.raises(BaselineError, match="needs a reason"):
        baselines.loosen("nf4", "kl_mean", 0.03, NOW, reason=reason)
    assert limit_of(baselines, "cpu", "nf4", "kl_mean") == 0.02


def test_loosening_leaves_reason_date_run_and_both_limits() -> None:
    baselines = empty()
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    later = replace(NOW, run_id="r2", date="2026-12-01")
    entry = baselines.loosen("nf4", "kl_mean", 0.03, later, reason=" new kernel ")
    assert (entry.limit, entry.provenance) == (0.03, later)
    (step,) = entry.history
    assert (step.date, step.run_id, step.reason) == ("2026-12-01", "r2", "new kernel")
    assert (step.old_limit, step.new_limit) == (0.02, 0.03)
    (tightened,) = baselines.tighten(passed("kl_mean", 0.01, 0.025), later)
    assert tightened.history == (step,)


@pytest.mark.parametrize(
    ("metric", "limit"), [("kl_mean", 0.02), ("kl_mean", 0.01), ("top1_agreement", 0.9)]
)
def test_loosening_to_no_looser_limit_is_refused(metric: str, limit: float) -> None:
    baselines = empty()
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    baselines.tighten(passed("top1_agreement", 0.8, 0.95), NOW)
    with pytest.raises(BaselineError, match="is not looser than"):
        baselines.loosen("nf4", metric, limit, NOW, reason="because")


def test_a_limit_that_is_no_longer_comparable_may_be_set_anew_with_a_reason() -> None:
    baselines = empty()
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    other = replace(NOW, corpus_fingerprint="corpus-b")
    entry = baselines.loosen("nf4", "kl_mean", 0.01, other, reason="new corpus")
    assert Baselines.mismatch(entry, other) == []
    assert entry.history[0].old_limit == 0.02


def test_loosening_what_is_not_there_or_to_no_number_is_refused() -> None:
    baselines = empty()
    with pytest.raises(BaselineError, match="there is no limit for kl_mean of nf4 on cpu"):
        baselines.loosen("nf4", "kl_mean", 0.01, NOW, reason="x")
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    for limit in (math.nan, math.inf):
        with pytest.raises(BaselineError, match="a limit is a finite number"):
            baselines.loosen("nf4", "kl_mean", limit, NOW, reason="x")


entries = st.builds(
    Entry,
    candidate=st.text(max_size=5),
    metric=st.sampled_from(sorted(metrics())),
    limit=st.floats(allow_nan=False, allow_infinity=False),
    provenance=st.builds(
        Provenance, *[st.text(max_size=3)] * 6, device=st.sampled_from(["cpu", "cuda"])
    ),
)
entry_lists = st.lists(entries, unique_by=lambda entry: entry.key, max_size=4)


@settings(max_examples=50, deadline=None)
@given(entry_lists, st.randoms(use_true_random=False))
def test_the_file_does_not_depend_on_order_and_comes_back_whole(
    tmp_path_factory: pytest.TempPathFactory, found: list[Entry], random: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "baselines.json"
    shuffled = found.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # a random.Random
    Baselines(path, found).save()
    before = path.read_bytes()
    Baselines(path, shuffled).save()
    assert path.read_bytes() == before
    loaded = Baselines.load(path)
    assert sorted(map(repr, loaded.entries)) == sorted(map(repr, found))
    loaded.save()
    assert path.read_bytes() == before


def test_history_comes_back_from_the_file(tmp_path: Path) -> None:
    baselines = empty(tmp_path / "b.json")
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    baselines.loosen("nf4", "kl_mean", 0.03, NOW, reason="r")
    baselines.save()
    assert Baselines.load(tmp_path / "b.json").entries == baselines.entries


def test_a_change_of_one_limit_is_a_diff_of_few_lines() -> None:
    baselines = empty()
    for metric in ("kl_mean", "kl_p99", "perplexity_ratio"):
        baselines.tighten(passed(metric, 0.01, 0.02), NOW)
    before = baselines.to_text().splitlines()
    baselines.tighten(passed("kl_p99", 0.01, 0.015), replace(NOW, run_id="r2"))
    after = baselines.to_text().splitlines()
    assert len(before) == len(after)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 2  # limit, run_id


def test_no_file_means_no_limits(tmp_path: Path) -> None:
    assert Baselines.load(tmp_path / "none.json").entries == []


def damaged(tmp_path: Path, **change: object) -> Path:
    baselines = empty(tmp_path / "b.json")
    baselines.tighten(passed("kl_mean", 0.01, 0.02), NOW)
    document = json.loads(baselines.to_text())
    document["entries"][0] |= change
    path = tmp_path / "b.json"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": None}, "TypeError"),
        ({"limit": "1e999"}, "the limit on kl_mean of nf4 is inf"),
        ({"metric": "kl_meen"}, "no metric is called 'kl_meen'"),
        ({"limt": 3}, "unknown keys limt"),
        ({"provenance": {}}, "TypeError"),
        ({"provenance": {"x": 1}}, "unknown keys x"),
    ],
)
def test_a_damaged_entry_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(BaselineError, match=rf"b\.json is not a baselines file.*{message}"):
        Baselines.load(damaged(tmp_path, **change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<<<<<<< HEAD", "Expecting value"),
        ('{"schema": 2, "entries": []}', "schema 2; this version reads 1"),
        ("{}", "KeyError: 'schema'"),
        ('{"schema": 1, "entries": [3]}', "TypeError"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(text)
    with pytest.raises(BaselineError, match=message):
        Baselines.load(path)


def test_two_limits_for_one_thing_are_refused(tmp_path: Path) -> None:
    path = damaged(tmp_path)
    document = json.loads(path.read_text())
    document["entries"] *= 2
    path.write_text(json.dumps(document))
    with pytest.raises(BaselineError, match="two limits for kl_mean of nf4 on cpu"):
        Baselines.load(path)
