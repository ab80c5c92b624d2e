"""A server's prefix cache: warm answers against cold ones, and what the server says it saved."""

from __future__ import annotations

import copy

import pytest
import torch
from chat_server_fake import chat_server
from infopt_suites.gates.chat_server import ChatServer
from infopt_suites.gates.models_answers import ModelsAnswers
from infopt_suites.gates.prefix_cache.served_chats import ChatTexts, measure_served_chat
from infopt_suites.gates.served_table import served_table
from served_model import COUNT, Served, dtype_error_in, served_engine

from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import InvalidComparisonError
from pytest_infopt.measure.dtype_error import DtypeError
from pytest_infopt.release import ServerSource
from pytest_infopt.results.sample import Sample

TEXTS = ChatTexts("w1 w2 w3 w4 w5 w6", "w6 w5 w4 w3 w2 w1", ("w7 w8", "w9 w10", "w11 w12"))


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return served_engine()


@pytest.fixture(scope="module")
def dtype_error(engine: TransformersEngine) -> DtypeError:
    return dtype_error_in(engine)


def measured(
    url: str, engine: TransformersEngine, dtype_error: DtypeError, texts: ChatTexts = TEXTS
) -> Sample:
    model = ModelsAnswers(engine, dtype_error, COUNT)
    with ChatServer(ServerSource(url, "m", timeout_seconds=30)) as server:
        return measure_served_chat(server, model, texts, COUNT, "chat")


def test_the_models_own_answers_pass_and_the_saving_is_what_the_server_reports(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    with chat_server(Served(engine)) as server:
        sample = measured(server.url, engine, dtype_error)
        first = server.bodies[0]
        assert len(server.bodies) == 7
    assert sample.values == {"prefix_greedy_mismatches": 0.0, "prefix_saved_share": 0.5}
    assert (first["temperature"], first["max_tokens"], first["model"]) == (0.0, COUNT, "m")
    rows = {row[0]: row for row in served_table([sample, sample]).rows}
    assert list(rows) == ["cold", "warm", "partly warm", "concurrent", "again"]
    assert (rows["cold"][1:3], rows["warm"][1:3]) == ((2, 16), (2, 8))
    assert rows["partly warm"][2] == 8  # its system prompt was known, but for the last of 4 words


def test_a_connection_is_made_before_it_is_timed(engine: TransformersEngine) -> None:
    with chat_server(Served(engine)) as server:
        with ChatServer(ServerSource(server.url, "m", timeout_seconds=30)) as client:
            for _ in range(5):
                client.answer(TEXTS.chat(0), COUNT)
        assert server.connections == 1


@pytest.mark.parametrize("way", ["everywhere", "warm", "partly warm", "concurrent"])
def test_an_answer_that_is_not_the_models_is_a_mismatch(
    engine: TransformersEngine, dtype_error: DtypeError, way: str
) -> None:
    """A server that is wrong cold and warm alike agrees with itself, and is wrong."""
    own = Served(engine)

    def answer(prompt: str, warm: bool) -> str:
        wrong = {
            "everywhere": True,
            "warm": warm,
            "partly warm": prompt.endswith("w9 w10") and prompt.startswith("w1"),
            "concurrent": prompt.startswith("w6"),
        }
        return own.unlikely(prompt) if wrong[way] else own(prompt)

    with chat_server(answer) as server:
        sample = measured(server.url, engine, dtype_error)
    expected = {
        "everywhere": ["again", "cold", "concurrent", "partly warm", "warm"],
        "warm": ["again", "warm"],
    }.get(way, [way])
    assert sample.details["mismatches"] == expected
    answers = {"everywhere": 7, "warm": 2, "partly warm": 1, "concurrent": 3}
    assert sample.values["prefix_greedy_mismatches"] == answers[way]
    finding = sample.findings[0]
    prompt = finding.context.split()
    logits = engine.full_logits(engine.encode(finding.context))[-1]
    best, worst = f"w{int(logits.argmax())}", f"w{int(logits.argmin())}"
    assert (finding.reference_top[0][0], finding.candidate_top[0][0]) == (best, worst)
    assert finding.position == len(prompt) == 8


def test_a_near_tie_of_the_models_is_none(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    """The head's rows of two words made equal: no kernel has to prefer one."""
    prompt = engine.full_logits(engine.encode("w1 w2 w3 w4 w5 w6 w7 w8"))[-1]
    a, b = prompt.topk(2).indices.tolist()
    tied = copy.deepcopy(engine.module)
    head = tied.lm_head.weight.detach().clone()
    head[b] = head[a]
    tied.lm_head.weight = torch.nn.Parameter(head)
    twin = TransformersEngine("tied", tied, engine.tokenizer, dtype=torch.float32)
    own = Served(twin)

    def other_of_two(prompt: str, warm: bool) -> str:
        swap = {f"w{a}": f"w{b}", f"w{b}": f"w{a}"}
        return " ".join(swap.get(word, word) for word in own(prompt).split())

    with chat_server(other_of_two) as server:
        sample = measured(server.url, twin, dtype_error)
    assert sample.values["prefix_greedy_mismatches"] == 0.0


def test_an_answer_that_ends_early_is_a_mismatch(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    own = Served(engine)

    def first_word(prompt: str, warm: bool) -> str:
        return own(prompt).split()[0] if warm else own(prompt)

    with chat_server(first_word) as server:
        sample = measured(server.url, engine, dtype_error)
    assert sample.values["prefix_greedy_mismatches"] == 2.0  # warm, and again


def with_ends(engine: TransformersEngine, *ends: int, of_tokenizer: bool) -> TransformersEngine:
    """The same model with these end tokens in its generation configuration."""
    module, tokenizer = copy.deepcopy(engine.module), copy.deepcopy(engine.tokenizer)
    module.generation_config.eos_token_id = list(ends) or None
    if not of_tokenizer:
        tokenizer.eos_token = None
    return TransformersEngine("ends", module, tokenizer, dtype=torch.float32)


def test_a_chat_model_may_end_by_more_tokens_than_its_tokenizer_knows(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    """The server stops where the generation configuration says; the tokenizer knows another."""
    own = Served(engine)
    ends = {own.tokens(" ".join(texts_of(question)))[1] for question in range(3)}
    ends |= {own.tokens(" ".join(texts_of(question, another=True)))[1] for question in range(3)}
    chatty = with_ends(engine, *sorted(ends), of_tokenizer=True)

    def stops(prompt: str, warm: bool) -> str:
        tokens = own.tokens(prompt)
        count = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        return engine.decode(tokens[:count])

    with chat_server(stops) as server:
        assert measured(server.url, chatty, dtype_error).values["prefix_greedy_mismatches"] == 0.0


def texts_of(question: int, another: bool = False) -> list[str]:
    return [message["content"] for message in TEXTS.chat(question, another)]


def test_an_answer_that_ends_where_nothing_ends_it_is_a_mismatch(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    own, endless = Served(engine), with_ends(engine, of_tokenizer=False)

    def first_word(prompt: str, warm: bool) -> str:
        return own(prompt).split()[0] if warm else own(prompt)

    with chat_server(first_word) as server:
        sample = measured(server.url, endless, dtype_error)
    assert sample.values["prefix_greedy_mismatches"] == 2.0


def test_what_the_server_does_not_report_is_left_out(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    with chat_server(Served(engine), reports_cache=False) as server:
        sample = measured(server.url, engine, dtype_error)
    assert set(sample.values) == {"prefix_greedy_mismatches"}
    assert "does not report" in sample.details["left_out"]["prefix_saved_share"]
    assert served_table([sample]).rows[1][2] is None


def test_cached_tokens_of_a_prompt_that_is_new_void_the_claim(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    with chat_server(Served(engine), claims_all=True) as server:
        sample = measured(server.url, engine, dtype_error)
    assert set(sample.values) == {"prefix_greedy_mismatches"}
    assert "nobody had sent before" in sample.details["left_out"]["prefix_saved_share"]


def test_a_model_hubs_offline_mode_does_not_refuse_a_server(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with (
        chat_server(Served(engine)) as server,
        ChatServer(ServerSource(server.url, "m", timeout_seconds=30)) as client,
    ):
        assert client.answer(TEXTS.chat(0), COUNT).text


def test_no_server_and_no_text_are_no_verdict(
    engine: TransformersEngine, dtype_error: DtypeError
) -> None:
    with chat_server(lambda prompt, warm: "") as server:
        url = server.url
        with pytest.raises(InvalidComparisonError, match="no text"):
            measured(url, engine, dtype_error)
    with pytest.raises(InvalidComparisonError, match=r"server http://127\.0\.0\.1"):
        measured(url, engine, dtype_error)
