"""Function calls of BFCL (Patil et al., 2025, "The Berkeley Function Calling Leaderboard"): which
function answers a request, and the call itself, judged as its own checker judges calls of Python.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_infopt.corpus import read_objects

from .task_data import Item, Task, task_from

Arguments = Mapping[str, list[Any]]  # by name, the values that are right; "" among them: none is
_LEFT_OUT = re.compile(r"[ ,./\-_*^]")  # of texts, as the checker compares them


def chosen_functions(data: Path, name: str) -> Task:
    """Which function answers a request: the category with several to choose from."""
    file = "BFCL_v4_multiple.json"
    answers = _truths(data, file)

    def records() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for number, record in read_objects(data / file):
            functions = record["function"]
            if len(functions) > 1:
                listed = "\n".join(f"{each['name']}: {each['description']}" for each in functions)
                yield (
                    f"{data / file}:{number}",
                    {
                        "id": record["id"],
                        "question": f"Functions:\n{listed}\n\n{_request(record)}"
                        "\nWhich function is called?",
                        "choices": [each["name"] for each in functions],
                        "answer": next(iter(answers[record["id"]])),
                    },
                )

    return task_from(records(), name)


def written_calls(data: Path, name: str) -> Task:
    """The call of the one function that there is, written with named arguments."""
    file = "BFCL_v4_simple_python.json"
    answers = _truths(data, file)
    items = tuple(
        Item(
            record["id"],
            f"Function:\n{json.dumps(record['function'][0])}\n\n{_request(record)}\n"
            "Write the call in Python, with named arguments.",
            _call(answers[record["id"]]),
        )
        for _, record in read_objects(data / file)
    )
    return Task(name, items, verify=lambda text, item: is_call(text, answers[item.id]))


def is_call(text: str, truth: Mapping[str, Arguments]) -> bool:
    """Whether the text is a call that ``truth`` allows: arguments named, values among the right
    ones, and left out only those that may be."""
    found = _parsed(text)
    if found is None or found[0] not in truth:
        return False
    given, allowed = found[1], truth[found[0]]
    return set(given) <= set(allowed) and all(
        _is_one_of(given[name], values) if name in given else "" in values
        for name, values in allowed.items()
    )


def _parsed(text: str) -> tuple[str, dict[str, Any]] | None:
    """Name and arguments of the one call, which may stand in a list or a fence."""
    code = re.sub(r"```(?:python)?", "", text).strip().strip("`")
    try:
        node = ast.parse(code, mode="eval").body
        if isinstance(node, ast.List) and len(node.elts) == 1:
            node = node.elts[0]
        if not isinstance(node, ast.Call) or node.args:
            return None
        given = {str(each.arg): ast.literal_eval(each.value) for each in node.keywords}
        return ast.unparse(node.func), given
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _is_one_of(value: Any, allowed: list[Any]) -> bool:
    return any(_same(value, each) for each in allowed)


def _same(value: Any, right: Any) -> bool:
    """Of a mapping, ``right`` holds a list of values for each key."""
    if isinstance(right, dict):
        keys = isinstance(value, dict) and set(value) <= set(right)
        return keys and all(
            _is_one_of(value[key], right[key]) if key in value else "" in right[key]
            for key in right
        )
    if isinstance(right, list):
        listed = isinstance(value, list) and len(value) == len(right)
        return listed and all(map(_same, value, right))
    alike = type(value) in (int, float) if type(right) is float else type(value) is type(right)
    return alike and bool(_plain(value) == _plain(right))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _LEFT_OUT.sub("", value).lower().replace("'", '"')
    return value


def _call(truth: Mapping[str, Arguments]) -> str:
    """The call with the first right value of what has to be given."""
    ((name, arguments),) = truth.items()
    given = (f"{key}={value!r}" for key, value in _first(arguments).items())
    return f"{name}({', '.join(given)})"


def _first(arguments: Arguments) -> dict[str, Any]:
    return {key: _one(values[0]) for key, values in arguments.items() if "" not in values}


def _one(right: Any) -> Any:
    if isinstance(right, dict):
        return _first(right)
    return [_one(each) for each in right] if isinstance(right, list) else right


def _request(record: Mapping[str, Any]) -> str:
    return str(record["question"][0][0]["content"])


def _truths(data: Path, file: str) -> dict[str, Mapping[str, Arguments]]:
    found = read_objects(data / "possible_answer" / file)
    return {record["id"]: record["ground_truth"][0] for _, record in found}
