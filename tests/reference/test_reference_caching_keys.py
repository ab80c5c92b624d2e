"""Keys against their definition: equal exactly where the content is equal, with its types."""

import copy
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from caching_cases import json_values, request, text
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.caching import ChatRequest, MemoryStore, ResponseCache, canonical, digest
from infopt_reference.caching.keys import prefix
from infopt_reference.caching.request import IRRELEVANT

# Every field of the chat format that changes the answer, with two values.
FIELDS: dict[str, tuple[Any, Any]] = {
    "model": ("m", "M"),
    "messages": ([{"role": "user", "content": "a"}], [{"role": "system", "content": "a"}]),
    "tenant": ("a", "b"),
    "adapter": ("a", "b"),
    "tools": ([], [{"type": "function", "function": {"name": "f"}}]),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"}, {"type": "json_object"}),
    "temperature": (0, 0.0),
    "top_p": (1, 0.5),
    "top_k": (1, 2),
    "min_p": (0.1, 0.2),
    "n": (1, 2),
    "seed": (1, 2),
    "stop": ("a", ["a"]),
    "max_tokens": (1, 2),
    "max_completion_tokens": (1, 2),
    "presence_penalty": (0, 1),
    "frequency_penalty": (0, 1),
    "repetition_penalty": (1.0, 1.1),
    "logit_bias": ({"1": 1}, {"1": 2}),
    "logprobs": (True, False),
    "top_logprobs": (1, 2),
    "reasoning_effort": ("low", "high"),
    "modalities": (["text"], ["audio"]),
    "a field of tomorrow": (1, 2),
}


def exact(value: Any) -> Any:
    """Content with its types, which is equal where keys are to be. A tuple is a list in JSON."""
    if isinstance(value, dict):
        return ("dict", tuple(sorted((name, exact(inner)) for name, inner in value.items())))
    if isinstance(value, list | tuple):
        return ("list", tuple(exact(inner) for inner in value))
    if isinstance(value, float):
        return ("float", value.hex())
    return (type(value).__name__, repr(value))


@given(json_values, json_values)
def test_digests_are_equal_exactly_where_contents_are(one: Any, other: Any) -> None:
    def comparable(value: Any) -> bool:
        return all(math.isfinite(x) for x in floats(value))

    if comparable(one) and comparable(other):
        assert (digest(one) == digest(other)) == (exact(one) == exact(other))


def floats(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [x for inner in value.values() for x in floats(inner)]
    if isinstance(value, list):
        return [x for inner in value for x in floats(inner)]
    return [value] if isinstance(value, float) else []


@given(st.dictionaries(text, st.integers(), min_size=2))
def test_the_order_of_names_does_not_matter(content: dict[str, int]) -> None:
    assert digest(dict(reversed(content.items()))) == digest(content)


def test_values_that_compare_equal_in_python_differ() -> None:
    values = [1, 1.0, True, "1", [1], None, "null", 0, 0.0, -0.0, False, "", [], {}]
    assert len({digest({"x": value}) for value in values}) == len(values)


@pytest.mark.parametrize(
    "content",
    [math.nan, math.inf, {1: 2}, {None: 1}, {"a": [{True: 1}]}, b"x", "\ud800", object, {1, 2}],
    ids=repr,
)
def test_content_without_one_spelling_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="no cache key"):
        canonical({"content": content})


def test_endless_content_is_refused() -> None:
    content: list[Any] = []
    for _ in range(100_000):
        content = [content]
    with pytest.raises(ValueError, match="no cache key"):
        canonical(content)


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_that_changes_the_answer_changes_the_key(name: str) -> None:
    one, other = FIELDS[name]
    cache = ResponseCache(MemoryStore())
    keys = {cache.key(request(**fields)) for fields in ({}, {name: one}, {name: other})}
    present = name in {"model", "messages", "temperature"} and request() == request(**{name: one})
    assert len(keys) == (2 if present else 3)


def test_fields_do_not_pass_for_each_other() -> None:
    cache = ResponseCache(MemoryStore())
    bodies = [{name: "x"} for name in FIELDS if name not in {"model", "messages"}]
    assert len({cache.key(request(**body)) for body in bodies}) == len(bodies)


@pytest.mark.parametrize("name", sorted(IRRELEVANT | {"stream"}))
def test_what_does_not_change_the_answer_does_not_change_the_key(name: str) -> None:
    cache = ResponseCache(MemoryStore())
    assert cache.key(request(**{name: True})) == cache.key(request())


def test_the_key_is_the_same_in_another_process() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "ä😀"}], "seed": 1, "x": 0.1}
    program = (
        "import json, sys\n"
        "from infopt_reference.caching import ChatRequest, MemoryStore, ResponseCache\n"
        "request = ChatRequest.from_mapping(json.loads(sys.argv[1]))\n"
        "print(ResponseCache(MemoryStore()).key(request))"
    )
    done = subprocess.run(
        [sys.executable, "-R", "-c", program, json.dumps(body)],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "77"},
    )
    assert done.stdout.strip() == ResponseCache(MemoryStore()).key(ChatRequest.from_mapping(body))


def test_a_request_is_not_changed_with_what_it_was_made_of() -> None:
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": "a"}],
        "stop": ["x"],
    }
    made = ChatRequest.from_mapping(body)
    before = copy.deepcopy(made.content)
    body["messages"][0]["content"] = "b"
    body["stop"].append("y")
    assert made.content == before


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_request_without_model_or_messages_is_refused(missing: str) -> None:
    body: dict[str, Any] = {"model": "m", "messages": []}
    del body[missing]
    with pytest.raises(ValueError, match=missing):
        ChatRequest.from_mapping(body)


@pytest.mark.parametrize("namespace", ["", "a}", "{a", "{}"])
def test_a_namespace_that_could_reach_into_another_is_refused(namespace: str) -> None:
    with pytest.raises(ValueError, match="without braces"):
        prefix(namespace, "answer")


@given(text, text, text)
def test_no_key_of_one_namespace_begins_like_those_of_another(
    one: str, other: str, rest: str
) -> None:
    names = [name.replace("{", "(").replace("}", ")") or "x" for name in (one, other)]
    if names[0] != names[1]:
        assert not (prefix(names[1], "answer") + rest).startswith(prefix(names[0], "answer"))


@pytest.mark.parametrize(
    ("fields", "sampled"),
    [
        ({}, True),  # left out: servers take 1
        ({"temperature": None}, True),
        ({"temperature": 0}, False),
        ({"temperature": 0.0}, False),
        ({"temperature": 0.7}, True),
        ({"temperature": "0"}, True),
        ({"temperature": False}, True),
        ({"temperature": 0.7, "seed": 0}, False),
        ({"temperature": 0.7, "seed": None}, True),
    ],
)
def test_sampled_is_what_is_drawn_without_a_seed(fields: dict[str, Any], sampled: bool) -> None:
    body = {"model": "m", "messages": [], **fields}
    assert ChatRequest.from_mapping(body).is_sampled is sampled
