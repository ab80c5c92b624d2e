"""A server that drafts: its answers against the model's, and what it says of its drafts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
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


def with_ends(engine: TransformersEngine, *ends: int) -> TransformersEngine:
    """The same model with these end tokens in its generation configuration alone."""
    module, tokenizer = copy.deepcopy(engine.module), copy.deepcopy(engine.tokenizer)
    module.generation_config.eos_token_id = list(ends) or None
    tokenizer.eos_token = None
    return TransformersEngine("ends", module, tokenizer, dtype=torch.float32)


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
    sample = measured(engine, own.unlikely, drafts=(8, 8), drafts_by="timings")
    assert sample.values[MISMATCHES] == 1.0
    assert len(sample.findings) == 1


def test_an_answer_that_ends_early_is_a_mismatch(engine: TransformersEngine) -> None:
    """By an end token that is not the model's choice, or where none is known to end it."""
    own = Served(engine)
    for asked in (engine, with_ends(engine)):
        sample = measured(asked, lambda prompt: own(prompt).split()[0])
        assert sample.values[MISMATCHES] == 1.0


def test_a_chat_model_may_end_by_more_tokens_than_its_tokenizer_knows(
    engine: TransformersEngine,
) -> None:
    """The server stops where the generation configuration says; the tokenizer knows no end."""
    tokens = Served(engine).tokens(CHAT[0]["content"])
    ends = with_ends(engine, tokens[1])
    stopped = engine.decode(tokens[: tokens.index(tokens[1])])
    assert measured(ends, lambda prompt: stopped).values[MISMATCHES] == 0.0


def test_a_near_tie_of_the_models_is_none(engine: TransformersEngine) -> None:
    """The head's rows of two words made equal: no kernel has to prefer one."""
    prompt = engine.full_logits(engine.encode(CHAT[0]["content"]))[-1]
    a, b = prompt.topk(2).indices.tolist()
    tied = copy.deepcopy(engine.module)
    head = tied.lm_head.weight.detach().clone()
    head[b] = head[a]
    tied.lm_head.weight = torch.nn.Parameter(head)
    twin = TransformersEngine("tied", tied, engine.tokenizer, dtype=torch.float32)
    own, swap = Served(twin), {f"w{a}": f"w{b}", f"w{b}": f"w{a}"}

    def other_of_two(prompt: str) -> str:
        return " ".join(swap.get(word, word) for word in own(prompt).split())

    assert measured(twin, other_of_two).values[MISMATCHES] == 0.0


def test_a_model_hubs_offline_mode_does_not_refuse_a_server(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert measured(engine, Served(engine)).values[MISMATCHES] == 0.0


def test_no_text_is_no_verdict(engine: TransformersEngine) -> None:
    with pytest.raises(InvalidComparisonError, match="no text"):
        measured(engine, lambda prompt: "")


def test_counts_that_contradict_each_other_hide_no_mismatch(engine: TransformersEngine) -> None:
    own = Served(engine)
    sample = measured(engine, own.unlikely, drafts=(4, 8), drafts_by="timings")
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
