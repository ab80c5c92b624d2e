"""Whole runs that judge components beside models: the embedder of a semantic cache."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pytest_infopt.run.exit_status import ExitStatus

EMBEDDER = """
import numpy as np

def embed(texts):
    '''Texts of one first letter are the same question.'''
    vectors = np.zeros((len(texts), 26))
    vectors[np.arange(len(texts)), [ord(text[0].lower()) % 26 for text in texts]] = 1
    return vectors
"""
SETTINGS = """
[semantic_cache]
embedder = "letters:embed"
pairs = "pairs.jsonl"
queries = 50
"""


def gate_pairs(pytester: pytest.Pytester, pairs: list[dict[str, Any]]) -> pytest.RunResult:
    (pytester.path / "letters.py").write_text(EMBEDDER)
    (pytester.path / "infopt.toml").write_text(SETTINGS)
    lines = "\n".join(json.dumps(pair) for pair in pairs)
    (pytester.path / "pairs.jsonl").write_text(lines + "\n")
    return pytester.runpytest_inprocess(
        "--infopt", "-p", "no:cacheprovider", "--pyargs", "infopt_suites.gates"
    )


def same(number: int) -> dict[str, Any]:
    return {"query": f"a {number}", "other": f"a {number + 1}", "same_answer": True}


def test_an_embedder_that_separates_the_pairs_passes(pytester: pytest.Pytester, result) -> None:
    other = {"query": "a", "other": "b", "same_answer": False, "category": "other letter"}
    run = gate_pairs(pytester, [*map(same, range(400)), other])
    assert run.ret == ExitStatus.PASSED
    run.stdout.fnmatch_lines(["*semantic_hit_precision*100 %*PASS*", "*400 of 400 hits right*"])
    (item,) = result()["items"]
    curve, stream = item["details"]["tables"]
    assert "false hits: other letter" in curve["columns"]
    assert len(stream["rows"]) == 2


def test_false_hits_fail_and_name_the_closest_pair(pytester: pytest.Pytester) -> None:
    other = {"query": "a wrong one", "other": "another", "same_answer": False}
    run = gate_pairs(pytester, [*map(same, range(20)), *[other] * 5])
    assert run.ret == ExitStatus.FAILED
    run.stdout.fnmatch_lines(["*FAIL semantic_hit_precision 80 %*", "*no threshold separates*"])


def test_few_right_hits_are_no_evidence(pytester: pytest.Pytester, result) -> None:
    run = gate_pairs(pytester, [same(n) for n in range(100)])
    assert run.ret == ExitStatus.INCONCLUSIVE
    row = next(r for r in result()["gates"] if r["metric"] == "semantic_hit_precision")
    assert (row["value"], row["needed"]) == (1.0, 199)


def test_a_cache_that_never_hits_shows_nothing(pytester: pytest.Pytester) -> None:
    run = gate_pairs(pytester, [{"query": "a", "other": "b", "same_answer": True}] * 3)
    assert run.ret == ExitStatus.INCONCLUSIVE


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([{"query": "a", "other": 3, "same_answer": True}], "*pairs.jsonl:1: no pair*"),
        ([], "*holds no pairs*"),
    ],
)
def test_pairs_that_are_none_are_named(
    pytester: pytest.Pytester, pairs: list[dict[str, Any]], said: str
) -> None:
    run = gate_pairs(pytester, pairs)
    assert run.ret == ExitStatus.HARNESS_ERROR
    run.stdout.fnmatch_lines([said])


def test_an_embedder_that_is_not_there_is_named(pytester: pytest.Pytester) -> None:
    (pytester.path / "infopt.toml").write_text('[semantic_cache]\nembedder = "letters:nothing"\n')
    run = pytester.runpytest_inprocess(
        "--infopt", "-p", "no:cacheprovider", "--pyargs", "infopt_suites.gates"
    )
    assert run.ret == ExitStatus.HARNESS_ERROR
    run.stdout.fnmatch_lines(["*semantic_cache.embedder letters:nothing*"])
