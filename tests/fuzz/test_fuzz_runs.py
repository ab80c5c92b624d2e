"""Random releases run, options in any order, and ended at random: one verdict, nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import cases
from documents import toml
from hypothesis import given
from hypothesis import strategies as st
from runs import SIGNALS, End, check, outcome, planned, run, write_engine, write_release

from pytest_infopt.configuration import load_release
from pytest_infopt.gates.registry import gates, metrics

QUALITY = {  # limits that nothing, some, or all of the candidates keep
    "kl_mean": st.sampled_from(["off", 1e-9, 0.5, 30]),
    "perplexity_ratio": st.sampled_from(["off", 1.000001, 1.5, 100]),
    "top1_agreement": st.sampled_from(["off", 0.999, 0.5, 0.01]),
}
REST = {name: QUALITY[name] for name in ("perplexity_ratio", "top1_agreement")}
DAMAGES = st.lists(st.sampled_from([0.0, 1e-6, 0.01, 3.0]), min_size=1, max_size=2)
STATISTICS = {"seed": st.integers(0, 9), "policy": st.sampled_from(["block", "warn"])}
SECONDS = {"budget_seconds": st.sampled_from([0.01, 5.0])}
QUALITY_ALONE = ["--infopt", "-k", "quality"]
WORDS = ["-x", "-q", "-v", "-rA", "--tb=short", "--junitxml=junit.xml", "--maxfail=2"]
ENDS = st.builds(
    End,
    st.sampled_from(SIGNALS),
    st.sampled_from([0, 1, 2, 3, 5, 8, 13, 30]),
    st.sampled_from([0.0, 0.05, 0.3, 1.0, 3.0]),
    st.booleans(),
)


@st.composite
def releases(draw: st.DrawFn, budget_seconds: bool = True) -> str:
    """infopt.toml of one or two byte models, with limits on what the engine can, or on all.

    Where a gate ends by its budget_seconds, no two runs need agree.
    """
    limits: dict[str, Any] = {}
    if draw(st.integers(0, 3)):  # what the engine cannot run makes each verdict INCONCLUSIVE
        limits = {name: "off" for name in metrics() if name not in QUALITY}
    limits |= draw(st.fixed_dictionaries({"kl_mean": QUALITY["kl_mean"]}, optional=REST))
    keys = STATISTICS | SECONDS if budget_seconds else STATISTICS
    candidates = {
        f"c{number}": {"options": {"damage": damage}} for number, damage in enumerate(draw(DAMAGES))
    }
    return toml(
        {
            "reference": {"engine": "bigram", "model": "./model"},
            "candidates": candidates,
            "budgets": limits,
            "statistics": draw(st.fixed_dictionaries({}, optional=keys)),
            "corpus": {"max_documents": draw(st.integers(1, 12)), "max_tokens": 64},
            "latency": {"new_tokens": 4},
        }
    )


ORDERS = st.lists(st.sampled_from(WORDS), unique=True, max_size=4).flatmap(
    lambda words: st.permutations(["--infopt", *words])
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runs")
    write_engine(folder / "site")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder / "site")
        yield folder


def fresh(base: Path, name: str, text: str) -> Path:
    folder = base / name
    shutil.rmtree(folder, ignore_errors=True)
    write_release(folder, text)
    return folder


@cases(smoke=15, fuzz=300)
@given(releases())
def test_each_release_that_is_drawn_can_be_gated(base: Path, text: str) -> None:
    """The generator itself: the runs below take seconds each."""
    folder = fresh(base, "drawn", text)
    assert load_release(folder).candidates
    assert {gate for gate, _ in planned(folder)} <= set(gates())


@pytest.mark.slow
@cases(smoke=2, fuzz=16, shrink=False)
@given(releases(), ORDERS)
def test_a_run_has_one_verdict(base: Path, text: str, words: list[str]) -> None:
    check(run(fresh(base, "whole", text), words))


@pytest.mark.slow
@cases(smoke=1, fuzz=10, shrink=False)
@given(releases(budget_seconds=False), ENDS)
def test_a_run_that_is_ended_goes_on_to_the_same_end(base: Path, text: str, end: End) -> None:
    alone = run(fresh(base, "alone", text), QUALITY_ALONE)
    check(alone, "quality")
    folder = fresh(base, "ended", text)
    ended = run(folder, QUALITY_ALONE, end)
    assert ended.left_behind == []
    if ended.status >= 0:
        check(ended, "quality")
    resume = [] if ended.run_folder is None else ["--infopt-resume=latest"]
    resumed = run(folder, [*QUALITY_ALONE, *resume])
    check(resumed, "quality")
    assert resumed.status == alone.status, resumed.output
    assert outcome(resumed) == outcome(alone)
