"""Examples as files for fine-tuning: the chat format of OpenAI's API, and `datasets`.

    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}

Contract. A line is one conversation that ends with the teacher's answer, and begins with a system
message where one is given. With ``tag``, the reasoning stands before the answer, within the tag.
What is written has passed the same check that reads any such file. A file appears whole or not at
all.

Source: OpenAI API, "Fine-tuning", "Preparing your dataset"; ten examples are its least.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .example import Example

if TYPE_CHECKING:
    from datasets import Dataset  # type: ignore[import-untyped]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "weight"}


def conversation(
    example: Example, *, system: str | None = None, tag: str | None = None
) -> dict[str, Any]:
    """An example as an object of the chat format."""
    answer = example.answer
    if tag is not None and example.reasoning:
        answer = f"<{tag}>\n{example.reasoning}\n</{tag}>\n\n{answer}"
    messages = [dict(message) for message in example.messages]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def write_conversations(
    examples: Sequence[Example],
    path: Path,
    *,
    system: str | None = None,
    tag: str | None = None,
    least: int = 10,
) -> None:
    """A file of the chat format, a line an example.

    Raises:
        ValueError: there are fewer than ``least`` examples, or one is no conversation.
    """
    objects = [conversation(example, system=system, tag=tag) for example in examples]
    lines = [json.dumps(each, ensure_ascii=False) for each in objects]
    check_conversations(lines, least=least)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8"))
    os.replace(unfinished, path)


def check_conversations(lines: Sequence[str], *, least: int = 10) -> None:
    """Raises ValueError, naming the line, where lines are not what a fine-tuning API takes."""
    if len(lines) < least:
        raise ValueError(f"{len(lines)} conversations; at least {least} are asked for")
    for number, line in enumerate(lines, start=1):
        try:
            _check(json.loads(line))
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {number}: {error}") from None


def make_dataset(examples: Sequence[Example], **options: Any) -> Dataset:
    """The conversations as a `datasets.Dataset` of one column, ``messages``; options as above."""
    from datasets import Dataset

    return Dataset.from_list([conversation(example, **options) for example in examples])


def _check(value: Any) -> None:
    if not isinstance(value, dict) or not isinstance(value.get("messages"), list):
        raise ValueError("no object with a list of messages")
    if unknown := value.keys() - {"messages", "tools", "parallel_tool_calls", "functions"}:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    messages: list[Mapping[str, Any]] = value["messages"]
    for message in messages:
        _check_message(message)
    if not messages or messages[-1]["role"] != "assistant":
        raise ValueError("the last message is not the assistant's")
    if not any(message["role"] == "user" for message in messages):
        raise ValueError("no message is a user's")


def _check_message(message: Any) -> None:
    if not isinstance(message, dict):
        raise ValueError(f"a message is {type(message).__name__}, not an object")
    if unknown := message.keys() - _KEYS:
        raise ValueError(f"a message has unknown keys {sorted(unknown)}")
    if message.get("role") not in _ROLES:
        raise ValueError(f"a message has the role {message.get('role')!r}, not one of {_ROLES}")
    content = message.get("content")
    calls = message.get("tool_calls") or message.get("function_call")
    if content is None and calls and message["role"] == "assistant":
        return
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"a message of the {message['role']} has no text")
