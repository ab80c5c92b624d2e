"""A model's answers: the choice it finds most probable, or the text it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pytest_infopt import Engine
from pytest_infopt.engines.base import (
    Capability,
    ModuleEngine,
    ScoringEngine,
    StreamingEngine,
    able,
)

from ..models_answers import end_tokens
from .answer_text import same_number, same_text
from .task_data import CHOICE, NUMBER, Item, Task

_NEXT_QUESTION = "\n\nQuestion:"


@dataclass(frozen=True)
class Answer:
    text: str
    right: bool


class Answering:
    """Puts a task's items to an engine, by the settings of [tasks]."""

    def __init__(self, task: Task, begins_with: str, normalise: bool, new_tokens: int) -> None:
        self._task = task
        self._begins_with = begins_with
        self._normalise = normalise
        self._new_tokens = new_tokens

    @property
    def _chat(self) -> bool:
        return self._begins_with == "chat"

    def prompt(self, item: Item) -> str:
        """The examples with their answers, and the question."""
        parts = [
            f"Question: {each.question}\nAnswer: {each.answer}" for each in self._task.examples
        ]
        if self._chat and not parts:
            return item.question
        return "\n\n".join([*parts, f"Question: {item.question}\nAnswer:"])

    def answer(self, engine: Engine, item: Item) -> Answer:
        """Raises NotSupportedError where the engine cannot be asked in the task's way."""
        prompt = engine.encode(self.prompt(item), self._begins_with)
        if self._task.kind == CHOICE:
            text = self._chosen(able(engine, ScoringEngine), prompt, item.choices)
            return Answer(text, text == item.answer)
        text = self._written(able(engine, StreamingEngine), prompt)
        return Answer(text, self._is_right(text, item))

    def _is_right(self, text: str, item: Item) -> bool:
        if self._task.verify is not None:
            return self._task.verify(text, item)
        same = same_number if self._task.kind == NUMBER else same_text
        return same(text, item.answer)

    def _chosen(self, engine: ScoringEngine, prompt: list[int], choices: Sequence[str]) -> str:
        """The choice of the largest log-likelihood, by bytes where normalised (lm-eval's acc_norm);
        of equal ones the first."""
        scores = []
        for choice in choices:
            text = choice if self._chat else f" {choice}"
            length = len(choice.encode()) if self._normalise else 1
            scores.append(log_likelihood(engine, prompt, engine.encode(text)) / length)
        return choices[max(range(len(choices)), key=scores.__getitem__)]

    def _written(self, engine: StreamingEngine, prompt: list[int]) -> str:
        """Greedy tokens up to an end token or the next question, which a base model goes on to."""
        ends = _ends(engine)
        room = min(self._new_tokens, engine.context_window - len(prompt))
        tokens: list[int] = []
        for event in engine.stream(prompt, room):
            if event.token_id in ends:
                break
            tokens.append(event.token_id)
            if _NEXT_QUESTION in (text := engine.decode(tokens)):
                return text.partition(_NEXT_QUESTION)[0].strip()
        return engine.decode(tokens).strip()


def log_likelihood(engine: ScoringEngine, prompt: list[int], continuation: list[int]) -> float:
    """ln P(continuation | prompt), in nats."""
    scores = engine.score([*prompt, *continuation])
    logits = scores.logits(len(prompt) - 1, len(prompt) + len(continuation) - 1)  # [T, V]
    chosen = torch.tensor(continuation, device=logits.device)[:, None]
    return float(logits.double().log_softmax(-1).gather(1, chosen).sum())


def _ends(engine: Engine) -> frozenset[int]:
    """The tokens that end an answer; a server ends its streams itself."""
    if Capability.MODULES not in engine.capabilities:
        return frozenset()
    return frozenset(end_tokens(able(engine, ModuleEngine)))
