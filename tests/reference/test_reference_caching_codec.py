"""The stored form: what is read is what was written, or nothing."""

from typing import Any

import pytest
from caching_cases import json_values, text
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.caching import Answer, CodecError, decode, encode
from infopt_reference.caching.codec import HEADER_BYTES

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": "ä😀"}'}}
answers = st.builds(
    Answer,
    content=st.none() | text,
    tool_calls=st.none() | st.lists(st.dictionaries(text, json_values, max_size=3), max_size=2),
    finish_reason=st.none() | st.sampled_from(["stop", "length", "tool_calls"]),
    prompt_tokens=st.integers(0),
    completion_tokens=st.integers(0),
    extra=st.dictionaries(text, json_values, max_size=3),
)


def typed(value: Any) -> Any:
    """repr tells 1, 1.0 and True apart, and 0.0 from -0.0."""
    return repr(value)


@given(answers)
def test_every_answer_is_read_back_equal(answer: Answer) -> None:
    assert typed(decode("k", encode("k", answer))) == typed(answer)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(""),
        Answer(None, [CALL], "tool_calls"),
        Answer("", [CALL]),
        Answer("x", []),
        Answer("\x00\r\n\u2028ä😀\ufeff"),
        Answer("\ud800"),
        Answer("x" * 10_000_000),
    ],
    ids=["empty", "call", "call and empty", "no calls", "unicode", "surrogate", "large"],
)
def test_values_of_each_kind_are_read_back_equal(answer: Answer) -> None:
    assert decode("k", encode("k", answer)) == answer


@pytest.mark.parametrize(
    "extra",
    [{"x": (1,)}, {1: "x"}, {"x": b"x"}, {"x": float("nan")}, {"x": {1, 2}}, {"x": "\ud83d\ude00"}],
    ids=repr,
)
def test_what_would_read_back_otherwise_is_not_stored(extra: dict[Any, Any]) -> None:
    with pytest.raises(CodecError, match="not stored"):
        encode("k", Answer("x", extra=extra))


def test_a_value_cut_off_anywhere_is_not_read() -> None:
    value = encode("k", Answer("text"))
    for length in range(len(value)):
        with pytest.raises(CodecError):
            decode("k", value[:length])


def test_a_value_with_any_changed_bit_is_not_read() -> None:
    value = encode("k", Answer("text"))
    for position in range(len(value) * 8):
        changed = bytearray(value)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(CodecError):
            decode("k", bytes(changed))


@pytest.mark.parametrize(
    "value", [b"", b"null", b"{}", b'{"content": "x"}', b"\x80\x04N.", b"x" * 99]
)
def test_a_foreign_value_is_not_read(value: bytes) -> None:
    with pytest.raises(CodecError, match="no value of version"):
        decode("k", value)


def test_another_version_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from infopt_reference.caching import codec

    monkeypatch.setattr(codec, "MAGIC", b"infopt" + (2).to_bytes(2, "big"))
    newer = encode("k", Answer("x"))
    monkeypatch.undo()
    with pytest.raises(CodecError, match="no value of version"):
        decode("k", newer)


def test_a_value_under_another_key_is_not_read() -> None:
    with pytest.raises(CodecError, match="not what was written"):
        decode("other", encode("k", Answer("x")))


def test_the_stored_form_is_that_of_version_1() -> None:
    # Entries that were written must be readable for as long as the version stays.
    value = encode("k", Answer("ä", prompt_tokens=1))
    assert value[:HEADER_BYTES].hex() == "696e666f70740001" + value[8:HEADER_BYTES].hex()
    assert value[HEADER_BYTES:] == (
        b'{"content":"\\u00e4","tool_calls":null,"finish_reason":"stop","prompt_tokens":1,'
        b'"completion_tokens":0,"extra":{}}'
    )


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (Answer("x"), True),
        (Answer(None, [CALL], "tool_calls"), True),
        (Answer("", [CALL], "stop"), True),
        (Answer("x", finish_reason="length"), False),
        (Answer("x", finish_reason="content_filter"), False),
        (Answer("x", finish_reason="error"), False),
        (Answer("x", finish_reason=None), False),
        (Answer(""), False),
        (Answer(" \n"), False),
        (Answer(None), False),
        (Answer(None, []), False),
    ],
)
def test_only_answers_that_ended_and_say_something_are_whole(answer: Answer, whole: bool) -> None:
    assert answer.is_whole is whole
