"""Result files of evaluation harnesses, by the fields that these tools write."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .recording import RecordedAnswer, Recording

_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT[\d.-]+)")
_GRADES = {"C": True, "I": False, "N": False}  # Inspect's correct, incorrect, no answer


def is_lm_eval_sample(document: Mapping[str, Any]) -> bool:
    return {"doc_id", "doc_hash", "prompt_hash", "target_hash", "metrics"} <= document.keys()


def lm_eval_samples(lines: Sequence[Mapping[str, Any]], file: str) -> Iterator[Recording]:
    """``samples_TASK_DATE.jsonl`` of ``lm_eval --log_samples`` (0.4.13).

    Each of its metrics that is 0 or 1 for every item, and each filter of answers, is a task of its
    own. Hashes of document, prompt and right answer tell what was asked, few-shot examples and chat
    template included. Raises ValueError where no metric is 0 or 1 throughout.
    """
    named = _SAMPLES.fullmatch(Path(file).stem)
    task, date = (named["task"], named["date"]) if named else (Path(file).stem, "")
    answers = _Answers()
    for line in lines:
        asked = "".join(line[key] for key in ("doc_hash", "prompt_hash", "target_hash"))
        for metric in line["metrics"]:
            name = f"{task} {metric}{_filter(line)}"
            answers.add(name, str(line["doc_id"]), _grade(line[metric]), asked)
    yield Recording("lm-eval", file, "", finished=date, answers=answers.of_right_and_wrong())


class _Answers:
    """Answers as they are read, by task and item; a task with a grade between right and wrong does
    not count."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, list[RecordedAnswer]]] = {}
        self._graded: set[str] = set()

    def add(self, task: str, item: str, right: bool | None, asked: str) -> None:
        if right is None:
            self._graded.add(task)
        else:
            answers = self._found.setdefault(task, {}).setdefault(item, [])
            answers.append(RecordedAnswer(right, asked))

    def of_right_and_wrong(self) -> dict[str, dict[str, tuple[RecordedAnswer, ...]]]:
        """Raises ValueError where there are none."""
        found = {
            task: {item: tuple(answers) for item, answers in items.items()}
            for task, items in self._found.items()
            if task not in self._graded
        }
        if not found:
            told = f", only grades between ({sorted(self._graded)})" if self._graded else ""
            raise ValueError(f"there is no answer that is right or wrong{told}")
        return found


def _filter(line: Mapping[str, Any]) -> str:
    name = line.get("filter", "none")
    return "" if name == "none" else f" ({name})"


def is_lm_eval(document: Mapping[str, Any]) -> bool:
    return {"results", "configs", "versions", "n-shot"} <= document.keys()


def lm_eval(document: Mapping[str, Any], file: str) -> Iterator[Recording]:
    """``results_DATE.json`` beside the samples: how its tasks were run, and on how many items."""
    settings = {
        f"{name} of {task}": value
        for name in ("versions", "n-shot", "n-samples")
        for task, value in (document.get(name) or {}).items()
    }
    yield Recording("lm-eval", file, str(document.get("model_name", "")), settings=settings)


def is_inspect(document: Mapping[str, Any]) -> bool:
    return {"version", "status", "eval"} <= document.keys()


def inspect(document: Mapping[str, Any], file: str) -> Iterator[Recording]:
    """A log of Inspect AI in JSON (0.3.285, version 2). A task is a scorer whose grades are right
    or wrong for every sample; epochs are answers to the same item. Raises ValueError for a log
    without samples or such a scorer."""
    told = document["eval"]
    answers, samples = _Answers(), document.get("samples") or ()
    for sample in sorted(samples, key=lambda each: (str(each["id"]), each["epoch"])):
        asked = _digest(sample["input"], sample.get("choices"), sample["target"])
        for scorer, score in (sample.get("scores") or {}).items():
            name = f"{told['task']} {scorer}"
            answers.add(name, str(sample["id"]), _grade(score["value"]), asked)
    broken = sum(bool(sample.get("error")) for sample in samples)
    faults = [] if document["status"] == "success" else [f"its status is {document['status']!r}"]
    faults += [f"{broken} samples ended with an error"] if broken else []
    yield Recording(
        "inspect",
        file,
        str(told["model"]),
        finished=str((document.get("stats") or {}).get("completed_at") or told["created"]),
        settings={f"version of {told['task']}": told.get("task_version")},
        faults=tuple(faults),
        answers=answers.of_right_and_wrong(),
    )


def _grade(value: Any) -> bool | None:
    """None for what is neither right nor wrong."""
    if isinstance(value, str):
        return _GRADES.get(value)
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _digest(*parts: Any) -> str:
    """Messages have ids of their own in each log; what they say counts."""
    if isinstance(parts[0], list):
        said = [(message.get("role"), message.get("content")) for message in parts[0]]
        parts = (said, *parts[1:])
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
