"""Requests that a cache has to tell apart, answers that it has to give back, and vectors.

`FIELDS` has for each field of a chat request values that make a difference to the answer, each from
the others and from the field being left out. Left out are pairs that may or may not mean the same:
1 and 1.0, a default and nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from .protocol import Answer, Request

QUESTION = "What is the capital of France?"


def _said(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def _tool(name: str, description: str, *parameters: str) -> dict[str, Any]:
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": [*parameters]}
    function = {"name": name, "description": description, "parameters": schema}
    return {"type": "function", "function": function}


def _schema(*names: str) -> dict[str, Any]:
    properties = {name: {"type": "string"} for name in names}
    schema = {"name": "reply", "schema": {"type": "object", "properties": properties}}
    return {"type": "json_schema", "json_schema": schema}


_CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"city": "a"}'}}
_OTHER_CALL = {**_CALL, "function": {"name": "find", "arguments": '{"city": "b"}'}}
_PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/1.png"}}
_OTHER_PICTURE = {"type": "image_url", "image_url": {"url": "https://example.org/2.png"}}
_WEATHER = _tool("weather", "The weather of a city.", "city")
_TIME = _tool("time", "The time in a city.", "city")
_LONG = "All of this is context. " * 2000

MESSAGES: Sequence[list[dict[str, Any]]] = (
    _said(("system", "Be brief."), ("user", QUESTION)),
    _said(("system", "Be brief."), ("user", QUESTION.lower())),
    _said(("system", "Be brief."), ("user", QUESTION + " ")),
    _said(("system", "Be brief."), ("user", QUESTION.replace("France", "Germany"))),
    _said(("system", "Be brief."), ("user", QUESTION.replace(" of", "  of"))),
    _said(("system", "Be long."), ("user", QUESTION)),
    _said(("developer", "Be brief."), ("user", QUESTION)),
    _said(("user", "Be brief."), ("user", QUESTION)),
    _said(("user", QUESTION)),
    _said(("user", "Be brief.\n" + QUESTION)),
    _said(("user", "Be brief." + QUESTION)),
    _said(("user", QUESTION), ("system", "Be brief.")),
    _said(("system", "Be brief."), ("user", "user: " + QUESTION)),
    _said(("user", "Hello"), ("assistant", "Hello!"), ("user", QUESTION)),
    _said(("user", "Hello"), ("assistant", "Go away."), ("user", QUESTION)),
    _said(("user", "Hello"), ("user", "Hello!"), ("user", QUESTION)),
    _said(("user", "Hello"), ("assistant", "Hello!"), ("user", "Hello")),
    _said(("user", "Caf\u00e9?")),  # é as one code point, and as two
    _said(("user", "Cafe\u0301?")),
    _said(("user", "")),
    _said(("user", " ")),
    _said(("user", "1")),
    _said(("user", "null")),
    _said(("user", "a\x00b")),
    _said(("user", "a")),
    _said(("user", _LONG + "First?")),
    _said(("user", _LONG + "Other?")),
    _said(("user", "First?" + _LONG)),
    [{"role": "user", "name": "ann", "content": QUESTION}],
    [{"role": "user", "name": "bob", "content": QUESTION}],
    [{"role": "user", "content": [{"type": "text", "text": "Which?"}, _PICTURE]}],
    [{"role": "user", "content": [{"type": "text", "text": "Which?"}, _OTHER_PICTURE]}],
    [{"role": "user", "content": [_PICTURE, {"type": "text", "text": "Which?"}]}],
    [*_said(("user", QUESTION)), {"role": "assistant", "content": None, "tool_calls": [_CALL]}],
    [
        *_said(("user", QUESTION)),
        {"role": "assistant", "content": None, "tool_calls": [_OTHER_CALL]},
    ],
)

FIELDS: Mapping[str, Sequence[Any]] = MappingProxyType(
    {
        "model": ("small-7b", "small-70b", "Small-7b", "small-7b:q4"),
        "messages": MESSAGES,
        "tenant": ("acme", "Acme", "globex", "law", "7"),
        "adapter": ("law", "acme", "medicine", "7"),
        "temperature": (0.0, 0.25, 0.5, 2.0),
        "top_p": (0.1, 0.25, 0.5),
        "top_k": (1, 7, 50),
        "min_p": (0.05, 0.25),
        "max_tokens": (1, 7, 16, 160),
        "seed": (0, 1, 7, 70),
        "stop": ("a", "ab", ["a", "b"], ["b", "a", "c"], "\n"),
        "presence_penalty": (0.5, -0.5, 0.25),
        "frequency_penalty": (0.5, -0.5, 0.25),
        "repetition_penalty": (1.25, 1.5),
        "logit_bias": ({"5": 1}, {"5": -1}, {"6": 1}, {"5": 1, "6": 1}, {"51": 1}),
        "n": (2, 3),
        "logprobs": (True,),
        "top_logprobs": (1, 5),
        "response_format": ({"type": "json_object"}, _schema("a"), _schema("b"), _schema("a", "b")),
        "tools": (
            [_WEATHER],
            [_TIME],
            [_WEATHER, _TIME],
            [_tool("weather", "The weather of a town.", "city")],
            [_tool("weather", "The weather of a city.", "town")],
        ),
        "tool_choice": (
            "none",
            "required",
            {"type": "function", "function": {"name": "weather"}},
            {"type": "function", "function": {"name": "time"}},
        ),
        "parallel_tool_calls": (False,),
        "reasoning_effort": ("low", "high"),
    }
)
IRRELEVANT: Mapping[str, Sequence[Any]] = MappingProxyType(
    {"timeout": (5, 60.0), "user": ("u-1", "u-2"), "metadata": ({"trace": "1"}, {"trace": "2"})}
)
# Answers cost money where they are computed for nothing, so the base is a request like many.
BASE: Request = MappingProxyType(
    {"model": "small-7b", "messages": MESSAGES[0], "temperature": 0.0, "max_tokens": 64}
)


def changed(request: Request, **fields: Any) -> dict[str, Any]:
    """The request with these fields set; a field that is None is left out."""
    return {name: value for name, value in {**request, **fields}.items() if value is not None}


def variants(fields: Collection[str], base: Request = BASE) -> Iterator[tuple[str, Request]]:
    """The base, and each request that differs from it in one field: what was changed, request."""
    yield "nothing", base
    for field in fields:
        for value in FIELDS[field]:
            if base.get(field) != value:
                yield f"{field} = {short(value)}", changed(base, **{field: value})
        if field in base and field not in ("model", "messages"):
            yield f"no {field}", changed(base, **{field: None})


def requests(fields: Collection[str]) -> SearchStrategy[Request]:
    """Requests with a value of its own in up to four fields."""
    choices = {field: st.sampled_from(FIELDS[field]) for field in sorted(fields)}
    names = st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=min(4, len(fields)))
    chosen = names.flatmap(lambda few: st.fixed_dictionaries({name: choices[name] for name in few}))
    return chosen.map(lambda values: changed(BASE, **values))


def pairs(fields: Collection[str]) -> SearchStrategy[tuple[Request, Request]]:
    """Two requests, the second with other values in one or two fields, or without them."""
    values = {name: st.sampled_from(FIELDS[name]) for name in sorted(fields)}
    never_left_out = ("model", "messages")
    choices = {n: v if n in never_left_out else st.none() | v for n, v in values.items()}
    names = st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=min(2, len(fields)))
    change = names.flatmap(lambda few: st.fixed_dictionaries({name: choices[name] for name in few}))
    return st.tuples(requests(fields), change).map(lambda two: (two[0], changed(two[0], **two[1])))


def reordered(value: Any) -> Any:
    """Equal to the value, with the keys of every mapping in it in the opposite order."""
    if isinstance(value, Mapping):
        return {key: reordered(value[key]) for key in reversed([*value])}
    return [reordered(each) for each in value] if isinstance(value, list) else value


def ask(question: str, **fields: Any) -> dict[str, Any]:
    """The base request with another question of the user."""
    return changed(BASE, messages=_said(("system", "Be brief."), ("user", question)), **fields)


def in_context(fields: Mapping[str, Any], question: str) -> Any:
    """The question in a context: other fields, and other messages ``before`` it."""
    request = ask(question, **{k: v for k, v in fields.items() if k != "before"})
    if "before" in fields:
        request["messages"] = [*fields["before"], request["messages"][-1]]
    return request


def reply(content: str | None, *, tokens: int = 5, **fields: Any) -> dict[str, Any]:
    """A whole answer."""
    usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9 + tokens}
    return {"content": content, "finish_reason": "stop", "usage": usage, **fields}


def replies() -> SearchStrategy[Answer]:
    """Answers of every kind."""
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    calls = st.lists(st.builds(_call, texts, texts), min_size=1, max_size=3)
    worded = st.builds(reply, texts.filter(str.strip), tokens=st.integers(1, 2**40))
    called = st.builds(
        lambda content, calls: reply(content, tool_calls=calls), st.none() | texts, calls
    )
    return worded | called


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


TRAPS_OF_ANSWERS: Sequence[tuple[str, Answer]] = (
    ("an empty string beside a call", reply("", tool_calls=[_CALL])),
    ("no content beside a call", reply(None, tool_calls=[_CALL, _OTHER_CALL])),
    ("text that is JSON", reply('{"a": [1, null, "\\u00e9"]}')),
    ("text that looks like a number", reply("0012")),
    ("text that is a literal", reply("None")),
    (
        "other planes and both directions",
        reply("\U0001f600 \u05e9\u05dc\u05d5\u05dd \u0000 \ufeff"),
    ),
    ("new lines of all kinds", reply("a\r\nb\nc\rd\u2028e\n\n")),
    ("large", reply("x" * 3_000_000)),
    ("a number beyond 2^53", reply("n", tokens=2**53 + 1)),
    ("quotes and delimiters", reply("'\"`\\/|;:,{}[]()<>%$*\t")),
)


def short(value: Any) -> str:
    """A value as text of one line."""
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:80]} … {text[-70:]}"
