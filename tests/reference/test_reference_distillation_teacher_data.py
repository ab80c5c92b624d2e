"""Teacher data: reasoning, numbers, the file, the chat format, `datasets`, and real services."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.caching import Answer, ChatRequest, TransformersService
from infopt_reference.distillation import (
    Example,
    Prompt,
    TeacherDataGenerator,
    check_conversations,
    conversation,
    last_number,
    make_dataset,
    part_reasoning,
    write_conversations,
)
from tiny_models import make_model, make_tokenizer


def examples(count: int = 10) -> list[Example]:
    return [
        Example(f"q{i}", Prompt.of_text(f"q{i}", f"say {i}").messages, f"{i}\né", f"because {i}")
        for i in range(count)
    ]


class Echo:
    """Answers with what it was asked, or as told."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)

    async def complete(self, request: ChatRequest) -> Answer:
        return self.answers.pop(0) if self.answers else Answer(request.messages[-1]["content"])

    def stream(self, request: ChatRequest) -> Any:
        raise NotImplementedError


def generated(service: Any, prompts: list[Prompt], path: Path | None = None, **given: Any) -> Any:
    pytest.importorskip("tenacity")
    generator = TeacherDataGenerator(service, "teacher", **{"first_wait": 0.0, **given})
    return asyncio.run(generator.generate(prompts, path))


WORDS = st.text("abc <>/\n", max_size=6)


@given(st.lists(st.sampled_from(["<think>", "</think>", "a", "b ", "\n", "<b>"]), max_size=12))
def test_every_letter_is_reasoning_or_answer(pieces: list[str]) -> None:
    text = "".join(pieces)
    parted = part_reasoning(text)
    left = text.replace("<think>", "").replace("</think>", "").split()
    assert sorted("".join(left)) == sorted("".join((parted.reasoning + parted.answer).split()))
    assert "think>" not in parted.answer
    if "<think>" not in text and "</think>" not in text:
        assert (parted.reasoning, parted.answer) == ("", parted.answer)


@given(WORDS, WORDS)
def test_what_is_put_together_is_parted_again(reasoning: str, answer: str) -> None:
    parted = part_reasoning(f"<think>{reasoning}</think>{answer}")
    assert (parted.reasoning, parted.answer) == (reasoning.strip(), answer.strip())


def test_another_tag_and_either_case() -> None:
    parted = part_reasoning("<REASON>a</Reason>b <think>c</think>", tag="reason")
    assert (parted.reasoning, parted.answer) == ("a", "b <think>c</think>")


@given(st.decimals(-(10**9), 10**9, places=2, allow_nan=False))
def test_a_number_is_read_as_it_is_written(number: Decimal) -> None:
    for written in (f"{number}", f"{number:,}"):
        assert last_number(f"first 12, so it is {written}.") == number
    assert last_number("none") is None
    assert last_number("v2 and x3") is None


def test_a_reasoning_field_of_the_server_is_kept() -> None:
    service = Echo(Answer("four", extra={"reasoning_content": "2 + 2"}))
    found = generated(service, [Prompt.of_text("a", "2 + 2?")])
    assert (found.examples[0].reasoning, found.examples[0].answer) == ("2 + 2", "four")


def test_what_failed_is_told() -> None:
    service = Echo(Answer("x"), Answer(""), Answer("cut", finish_reason="length"))
    prompts = [Prompt.of_text(name, name) for name in "abc"]
    found = generated(service, prompts, attempts=1, concurrency=1)
    assert [failure.id for failure in found.failures] == ["b", "c"]
    assert "answer is empty" in str(found)
    assert "'length'" in str(found)
    assert "1 answers, 2 failures" in str(found)


def test_what_a_service_cannot_do_is_not_repeated() -> None:
    """TransformersService refuses a parameter that it does not know, each time."""
    service = TransformersService(make_model("llama"), make_tokenizer())
    found = generated(service, [Prompt.of_text("a", "w1 w2")], parameters={"unknown": 1})
    assert [failure.calls for failure in found.failures] == [1]
    assert "ValueError" in found.failures[0].reason


def test_a_model_of_this_process_teaches() -> None:
    service = TransformersService(make_model("llama"), make_tokenizer())
    prompts = [Prompt.of_text(f"q{i}", f"w{i} w2 w3") for i in range(3)]
    settings = {"temperature": 0, "max_tokens": 4}
    found = generated(service, prompts, parameters=settings, attempts=1)
    # None of its texts ends by itself.
    assert {failure.reason for failure in found.failures} == {
        "NoAnswerError: the answer ended by 'length'"
    }


def test_the_file_tells_what_is_wrong_with_it(tmp_path: Path) -> None:
    path, prompts = tmp_path / "answers.jsonl", [Prompt.of_text("a", "1")]
    generated(Echo(), prompts, path)
    with pytest.raises(ValueError, match="answers another prompt under the id 'a'"):
        generated(Echo(), [Prompt.of_text("a", "2")], path)
    whole = path.read_text()
    path.write_text(whole + whole)
    with pytest.raises(ValueError, match=r"line 2: the id 'a' comes twice"):
        generated(Echo(), prompts, path)
    path.write_text('{"id": 3}\n')
    with pytest.raises(ValueError, match=r"line 1: no example"):
        generated(Echo(), prompts, path)
    with pytest.raises(ValueError, match="the id 'a' comes twice"):
        generated(Echo(), prompts * 2)


@pytest.mark.parametrize("given", [{"concurrency": 0}, {"attempts": 0}, {"per_second": 0.0}])
def test_settings_that_let_no_call_begin_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"have to be 1 or more|above 0"):
        TeacherDataGenerator(Echo(), "teacher", **given)


def test_the_chat_format_holds_conversations(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    write_conversations(examples(), path, system="Be brief.", tag="think")
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) == 10
    assert json.loads(lines[3])["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "say 3"},
        {"role": "assistant", "content": "<think>\nbecause 3\n</think>\n\n3\né"},
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["chat.jsonl"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "no object"),
        ({"messages": []}, "not the assistant's"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "no message is a user's"),
        ({"messages": [{"role": "user", "content": "a"}]}, "not the assistant's"),
        ({"messages": [{"role": "human", "content": "a"}]}, "role 'human'"),
        ({"messages": [{"role": "user", "content": " "}]}, "has no text"),
        ({"messages": [{"role": "user", "content": None}]}, "has no text"),
        ({"messages": [{"role": "user", "text": "a"}]}, "unknown keys"),
        ({"messages": ["a"]}, "not an object"),
        ({"messages": [], "prompt": ""}, "unknown keys"),
    ],
)
def test_what_is_no_conversation_is_refused(value: Any, message: str) -> None:
    good = json.dumps(conversation(examples(1)[0]))
    check_conversations([good], least=1)
    with pytest.raises(ValueError, match="line 2: .*" + message):
        check_conversations([good, json.dumps(value)], least=1)


def test_calls_of_tools_are_answers_too() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    ]
    check_conversations([json.dumps({"messages": messages})], least=1)


def test_too_few_examples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 10"):
        write_conversations(examples(9), tmp_path / "chat.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_dataset_holds_the_same_conversations() -> None:
    pytest.importorskip("datasets")
    found = make_dataset(examples(3), system="Be brief.")
    assert found.column_names == ["messages"]
    assert found[2] == conversation(examples(3)[2], system="Be brief.")
