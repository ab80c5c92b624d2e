"""A server that drafts: its answers against the model's, and what it says of its drafts."""

from __future__ import annotations

from typing import Any

import pytest
from chat_server_fake import chat_server
from infopt_suites.gates.chat_server import ChatServer, DraftCounts
from infopt_suites.gates.models_answers import ModelsAnswers
from infopt_suites.gates.speculative.served_drafts import measure_served_draft
from infopt_suites.gates.speculative.test_gate_speculative import doubted, without_drafts
from served_model import COUNT, Served, dtype_error_in, served_engine

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.release import ServerSource
from pytest_infopt.results.sample import Sample
from pytest_infopt.results.verdict import Judgement, Verdict

CHAT = [{"role": "user", "content": "w1 w2 w3 w4 w5 w6"}]
MISMATCHES, ACCEPTANCE = "speculative_greedy_mismatches", "draft_acceptance"


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return served_engine()


def measured(engine: TransformersEngine, answer: Any, **options: Any) -> Sample:
    model = ModelsAnswers(engine, dtype_error_in(engine), COUNT)
    with (
        chat_server(answer, **options) as server,
        ChatServer(ServerSource(server.url, "m", timeout_seconds=30)) as client,
    ):
        client.answer(CHAT, COUNT)  # an earlier request, which is not counted
        return measure_served_draft(client, model, CHAT, COUNT, "chat-0")


@pytest.mark.parametrize("by", ["timings", "metrics"])
def test_acceptance_is_what_the_server_reports_of_this_request(
    engine: TransformersEngine, by: str
) -> None:
    sample = measured(engine, Served(engine), drafts=(8, 6), drafts_by=by)
    assert sample.values == {MISMATCHES: 0.0, ACCEPTANCE: 0.75}
    assert (sample.details["drafted"], sample.weight) == (8, 8)
    assert without_drafts([sample]) == ""


def test_an_answer_that_is_not_the_models_is_a_mismatch(engine: TransformersEngine) -> None:
    own = Served(engine)
    sample = measured(
        engine, lambda prompt, warm: own.unlikely(prompt), drafts=(8, 8), drafts_by="timings"
    )
    assert sample.values[MISMATCHES] == 1.0
    assert len(sample.findings) == 1


def test_counts_that_contradict_each_other_hide_no_mismatch(engine: TransformersEngine) -> None:
    own = Served(engine)
    sample = measured(
        engine, lambda prompt, warm: own.unlikely(prompt), drafts=(4, 8), drafts_by="timings"
    )
    assert sample.values == {MISMATCHES: 1.0}
    with pytest.raises(InvalidComparisonError, match="8 accepted tokens of 4"):
        measured(engine, own, drafts=(4, 8), drafts_by="timings")


@pytest.mark.parametrize(
    ("by", "why"), [("", "does not report"), ("timings", "no token was"), ("metrics", "no token")]
)
def test_what_shows_no_drafts_is_no_pass(engine: TransformersEngine, by: str, why: str) -> None:
    sample = measured(engine, Served(engine), drafts=(0, 0), drafts_by=by)
    assert set(sample.values) == {MISMATCHES}
    doubt = without_drafts([sample, sample])
    assert why in doubt
    passed = Judgement(MISMATCHES, 0.0, 2, 2, Verdict.PASS, 0.0)
    failed = Judgement(MISMATCHES, 1.0, 2, 2, Verdict.FAIL, 0.0)
    assert doubted(passed, doubt).verdict is Verdict.INCONCLUSIVE
    assert doubted(failed, doubt) == failed
    assert doubted(passed, "") == passed


def test_counts_of_several_engines_are_added_and_other_lines_left_alone(
    engine: TransformersEngine,
) -> None:
    with (
        chat_server(Served(engine), drafts=(5, 2), drafts_by="metrics") as server,
        ChatServer(ServerSource(server.url, "m", timeout_seconds=30)) as client,
    ):
        client.answer(CHAT, COUNT)
        client.answer(CHAT, COUNT)
        assert client.draft_counts() == DraftCounts(1010, 1004)
