"""Tasks of EleutherAI's lm-evaluation-harness (lm-eval 0.4), read by that library's own classes.

The library makes documents, prompts, examples and choices, filters what is written, and judges it
document by document. Its requests go to engines as it puts them to its own models (lm-eval 0.4.13,
api/model.py `_encode_pair`, models/huggingface.py `generate_until`). Imports no torch.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

from pytest_infopt import Engine
from pytest_infopt.engines.base import StreamingEngine, able
from pytest_infopt.errors import ConfigurationError, InvalidComparisonError
from pytest_infopt.naming import nearest

from .task_data import CHOICE, CONTINUED, VERIFIED, Answer, Item, Task

PACKAGE = "lm-eval"
_KINDS = {"multiple_choice": CHOICE, "loglikelihood": CONTINUED, "generate_until": VERIFIED}

# What tasks call the most tokens of an answer; the first counts.
_MOST = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def lm_eval_task(source: str, name: str, key: str, seed: int, shots: int) -> Task:
    """The task of a YAML file, or of a name that the library knows.

    ``key`` is how its results are called there, "metric,filter"; "" is the first of each. With
    ``shots`` 0 the examples are as many as the task says. Raises ConfigurationError where the
    library is missing or cannot load the task, and for one that has no right and wrong answers.
    """
    own = _loaded(source, name)
    kind = _KINDS.get(own.OUTPUT_TYPE)
    problem = "" if kind else f"its {own.OUTPUT_TYPE} has no right and wrong answers"
    if problem := problem or _unfit(own):
        raise ConfigurationError(f"[tasks] {name}: {problem}")
    metric, filtered = _key(own, name, key)
    own.set_config(key="num_fewshot", value=shots or own.config.num_fewshot or 0)
    own.set_fewshot_seed(seed)
    items = (_item(own, index, document) for index, document in enumerate(own.eval_docs))
    asking = cache(partial(LmEvalAnswering, own, metric, filtered))
    return Task(name, tuple(items), asking=asking, asked_as=kind)


def _loaded(source: str, name: str) -> Any:
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigurationError(f"[tasks] {name}: {PACKAGE} is not installed; pip install lm-eval")
    try:  # a task brings code and data of its own
        found = _manager(of_the_library=not Path(source).is_file()).load([source])["tasks"]
    except Exception as error:
        raise ConfigurationError(
            f"[tasks] {name}: {PACKAGE} cannot load it: {type(error).__name__}: {error}"
        ) from error
    if len(found) != 1:
        raise ConfigurationError(
            f"[tasks] {name} is a group of {len(found)} tasks ({', '.join([*found][:3])}, …); name "
            "those that count"
        )
    return next(iter(found.values()))


@cache
def _manager(of_the_library: bool) -> Any:
    """Its own tasks are thousands of files, which it reads at once."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=of_the_library)


def _unfit(own: Any) -> str:
    if getattr(own, "UNSAFE_CODE", False):
        return "it runs the code that a model writes; that is not done here"
    if getattr(own, "MULTIMODAL", False):
        return "it shows images or sounds, which engines here do not take"
    asked = own.config.generation_kwargs or {}
    if asked.get("do_sample", asked.get("temperature", 0) > 0):
        return "it draws its answers at random; set do_sample: false in its generation_kwargs"
    return "" if hasattr(own, "doc_to_choice") else "it is a Python class; write its YAML file"


def _key(own: Any, name: str, key: str) -> tuple[str, str]:
    """The metric that judges, and the filter of what is written."""
    metrics, filters = [*own.aggregation()], [each.name for each in own._filters]
    metric, _, filtered = key.partition(",")
    for word, known in ((metric or metrics[0], metrics), (filtered or filters[0], filters)):
        if word not in known:
            raise ConfigurationError(f"[tasks] {name}: no {word!r}{nearest(word, known)}")
    return metric or metrics[0], filtered or filters[0]


def _item(own: Any, index: int, document: Any) -> Item:
    """A document as people read it; it is judged by the library."""
    choices = own.doc_to_choice(document) if own.config.doc_to_choice else ()
    target = own.doc_to_target(document)
    answer = choices[target] if isinstance(target, int) and choices else target
    return Item(str(index), str(own.doc_to_text(document)), str(answer), tuple(map(str, choices)))


class LmEvalAnswering:
    """Puts the task's requests to an engine, and has the library judge what comes of them."""

    def __init__(
        self, own: Any, metric: str, filtered: str, begins_with: str, new_tokens: int
    ) -> None:
        self._own = own
        self._metric = metric
        self._filter = filtered
        self._begins_with = begins_with
        self._new_tokens = new_tokens

    def prompt(self, item: Item) -> str:
        """Everything that is asked about a document."""
        return "\n".join(str(request.args) for request in self._requests[int(item.id)])

    def answer(self, engine: Engine, item: Item) -> Answer:
        """Raises InvalidComparisonError where the metric is neither 0 nor 1."""
        asked = self._requests[int(item.id)]
        told = [self._told(engine, request) for request in asked]
        answered = [
            replace(a, resps=[t], filtered_resps={}) for a, t in zip(asked, told, strict=True)
        ]
        for each in self._own._filters:
            each.apply(answered)
        results = [request.filtered_resps[self._filter] for request in answered]
        value = self._own.process_results(asked[0].doc, results).get(self._metric)
        if value not in (0, 1):
            raise InvalidComparisonError(
                f"task {self._own.task_name}, document {item.id}: {self._metric} is {value!r}, "
                "neither right (1) nor wrong (0); name another metric of the task"
            )
        return Answer("; ".join(_shown(a, t) for a, t in zip(asked, told, strict=True)), value == 1)

    @cached_property
    def _requests(self) -> dict[int, list[Any]]:
        """By document, in the library's order: its examples are drawn one document after another.

        In a chat, examples and question are one message of the user.
        """
        chat = self._begins_with == "chat"
        template = (
            (lambda messages, **_: "\n\n".join(m["content"] for m in messages)) if chat else None
        )
        self._own.build_all_requests(apply_chat_template=chat, chat_template=template)
        requests: dict[int, list[Any]] = {}
        for each in self._own.instances:
            requests.setdefault(each.doc_id, []).append(each)
        return requests

    def _told(self, engine: Engine, request: Any) -> Any:
        if request.request_type == "loglikelihood":
            from .choices import likelihood

            return likelihood(engine, *self._pair(engine, *request.args))
        from .answers import written

        context, asked = request.args
        most = next((int(asked[name]) for name in _MOST if name in asked), self._new_tokens)
        room = max(1, engine.context_window - most)
        prompt = engine.encode(context, self._begins_with)[-room:]
        ends = asked.get("until") or ()
        stops = [ends] if isinstance(ends, str) else [*filter(None, ends)]
        return written(able(engine, StreamingEngine), prompt, most, stops)

    def _pair(self, engine: Engine, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both as tokens; spaces at the end of a context belong to what follows."""
        if self._begins_with == "chat":
            return engine.encode(context, "chat"), engine.encode(continuation)
        kept = context.rstrip()
        whole = engine.encode(context + continuation, self._begins_with)
        prompt = engine.encode(kept, self._begins_with)
        if not prompt:
            raise InvalidComparisonError(
                f"task {self._own.task_name}: nothing stands before {continuation!r}, and the "
                "tokenizer puts nothing there; leave out the metric acc_mutual_info"
            )
        return prompt, whole[len(prompt) :]


def _shown(request: Any, told: Any) -> str:
    return told if isinstance(told, str) else f"{request.args[1].strip()} {told[0]:.4g}"
