"""A server's prefix cache: warm answers against cold ones, and what the server says it saved."""

from __future__ import annotations

import copy

import pytest
import torch
from chat_server_fake import chat_server
from infopt_suites.gates.prefix_cache.chat_server import ChatServer
from infopt_suites.gates.prefix_cache.served_chats import measure_served_chat, served_table
from measure_fakes import seeded_ids
from tiny_models import VOCABULARY, make_model, make_tokenizer

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.measure.dtype_error import DtypeError, dtype_error_of
from pytest_infopt.release import ServerSource
from pytest_infopt.results.sample import Sample

CHAT = [
    {"role": "system", "content": "w1 w2 w3 w4 w5 w6"},
    {"role": "user", "content": "w7 w8"},
]


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.eos_token = "w0"
    return TransformersEngine(
        "tiny", copy.deepcopy(make_model("llama")), tokenizer, dtype=torch.float32
    )


@pytest.fixture(scope="module")
def dtype_error(engine: TransformersEngine) -> DtypeError:
    ids = seeded_ids("served", 16, VOCABULARY)
    exact = TransformersEngine("exact", make_model("llama").double(), dtype=torch.float64)
    return dtype_error_of(exact.full_logits(ids), engine.full_logits(ids), torch.float32)


def best_words(engine: TransformersEngine) -> list[str]:
    """The model's words after the chat, the likeliest first."""
    logits = engine.full_logits(list(range(1, 9)))[-1]
    return [f"w{token}" for token in logits.argsort(descending=True).tolist()]


def measured(url: str, engine: TransformersEngine, dtype_error: DtypeError) -> Sample:
    server = ChatServer(ServerSource(url, "m"), timeout=30)
    return measure_served_chat(server, engine, CHAT, dtype_error, 4, "chat")


def test_equal_answers_pass_and_the_saving_is_what_the_server_reports(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    with chat_server(lambda prompt, warm: "w9 w8") as server:
        sample = measured(server.url, engine, dtype_error)
        first = server.bodies[0]
    assert sample.values == {"prefix_greedy_mismatches": 0.0, "prefix_saved_share": 0.5}
    assert (first["temperature"], first["max_tokens"], first["model"]) == (0.0, 4, "m")
    cold, warm = served_table([sample, sample]).rows
    assert (cold[:3], warm[:3]) == (("cold", 2, 16), ("warm", 2, 8))


def test_another_answer_from_the_cache_is_a_mismatch(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    best, second, *_ = best_words(engine)
    with chat_server(lambda prompt, warm: f"{second if warm else best} w1") as server:
        sample = measured(server.url, engine, dtype_error)
    assert sample.values["prefix_greedy_mismatches"] == 1.0
    (finding,) = sample.findings
    assert (finding.reference_top[0][0], finding.candidate_top[0][0]) == (best, second)
    assert finding.position == 8


def test_a_near_tie_of_the_models_is_none(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    """The head's rows of two words made equal: no kernel has to prefer one."""
    best, second, *_ = best_words(engine)
    tied = copy.deepcopy(engine.module)
    a, b = int(best[1:]), int(second[1:])
    head = tied.lm_head.weight.detach().clone()
    head[b] = head[a]
    tied.lm_head.weight = torch.nn.Parameter(head)
    own = TransformersEngine("tied", tied, engine.tokenizer, dtype=torch.float32)
    with chat_server(lambda prompt, warm: second if warm else best) as server:
        sample = measured(server.url, own, dtype_error)
    assert sample.values["prefix_greedy_mismatches"] == 0.0


def test_an_answer_that_ends_early_is_a_mismatch(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    best, *_, worst = best_words(engine)
    with chat_server(lambda prompt, warm: best if warm else f"{best} {worst}") as server:
        sample = measured(server.url, engine, dtype_error)
    assert sample.values["prefix_greedy_mismatches"] == 1.0


def test_what_the_server_does_not_report_is_left_out(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    with chat_server(lambda prompt, warm: "w9", reports_cache=False) as server:
        sample = measured(server.url, engine, dtype_error)
    assert set(sample.values) == {"prefix_greedy_mismatches"}
    assert served_table([sample]).rows[1][2] is None


def test_no_server_and_no_text_are_no_verdict(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    with chat_server(lambda prompt, warm: "") as server:
        url = server.url
        server.answer = lambda prompt, warm: ""
    with pytest.raises(InvalidComparisonError, match=r"server http://127\.0\.0\.1"):
        measured(url, engine, dtype_error)
