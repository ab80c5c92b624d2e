"""A model's answers: the choice it finds most probable, or the text it writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_infopt import Engine
from pytest_infopt.engines.base import (
    Capability,
    GreedyEngine,
    ModuleEngine,
    StreamingEngine,
    TopScoresEngine,
    able,
)

from ..models_answers import end_tokens
from .answer_text import same_number, same_text
from .choices import letter_tokens, lettered, log_likelihood, most_probable_letter
from .task_data import CHOICE, LETTERS, NUMBER, Answer, Item, Task

_NEXT_QUESTION = "\n\nQuestion:"


class Answering:
    """Puts a task's items to an engine, by the settings of [tasks]; ``by_letters``, choices as
    letters."""

    def __init__(
        self,
        task: Task,
        begins_with: str,
        normalise: bool,
        new_tokens: int,
        *,
        by_letters: bool = False,
    ) -> None:
        self._task = task
        self._by_letters = by_letters
        self._begins_with = begins_with
        self._normalise = normalise
        self._new_tokens = new_tokens

    @property
    def _chat(self) -> bool:
        return self._begins_with == "chat"

    def prompt(self, item: Item) -> str:
        """The examples with their answers, and the question."""
        parts = [
            f"Question: {self._question(each)}\nAnswer: {self._told(each)}"
            for each in self._task.examples
        ]
        if self._chat and not parts:
            return self._question(item)
        return "\n\n".join([*parts, f"Question: {self._question(item)}\nAnswer:"])

    def _question(self, item: Item) -> str:
        if not self._by_letters:
            return item.question
        ask = "\nAnswer with the letter alone." if self._chat and not self._task.examples else ""
        return lettered(item.question, item.choices) + ask

    def _told(self, item: Item) -> str:
        return LETTERS[item.choices.index(item.answer)] if self._by_letters else item.answer

    def answer(self, engine: Engine, item: Item) -> Answer:
        """Raises NotSupportedError where the engine cannot be asked in the task's way."""
        prompt = engine.encode(self.prompt(item), self._begins_with)
        if self._task.kind == CHOICE:
            text = self._chosen(engine, prompt, item)
            return Answer(text, text == item.answer)
        text = self._written(able(engine, StreamingEngine), prompt)
        return Answer(text, self._is_right(text, item))

    def _is_right(self, text: str, item: Item) -> bool:
        if self._task.verify is not None:
            return self._task.verify(text, item)
        same = same_number if self._task.kind == NUMBER else same_text
        return same(text, item.answer)

    def _chosen(self, engine: Engine, prompt: list[int], item: Item) -> str:
        """The choice of the largest log-likelihood, by bytes where normalised (lm-eval's acc_norm);
        of equal ones the first. By letters, that of the most probable one, or none."""
        choices = item.choices
        if self._by_letters:
            letters = letter_tokens(engine, len(choices), self._chat)
            place = most_probable_letter(able(engine, TopScoresEngine), prompt, letters)
            return choices[place] if place >= 0 else ""
        scores = []
        for choice in choices:
            text = choice if self._chat else f" {choice}"
            length = len(choice.encode()) if self._normalise else 1
            scores.append(log_likelihood(engine, prompt, engine.encode(text)) / length)
        return choices[max(range(len(choices)), key=scores.__getitem__)]

    def _written(self, engine: StreamingEngine, prompt: list[int]) -> str:
        """A base model goes on to the next question."""
        return written(engine, prompt, self._new_tokens, [_NEXT_QUESTION]).strip()


def written(
    engine: StreamingEngine, prompt: list[int], new_tokens: int, stops: Sequence[str]
) -> str:
    """Greedy tokens up to an end token, or the first of the texts that ``stops`` holds."""
    ends = _ends(engine)
    room = min(new_tokens, engine.context_window - len(prompt))
    tokens: list[int] = []
    for token in _greedy(engine, prompt, room):
        if token in ends:
            break
        tokens.append(token)
        text = engine.decode(tokens)
        if found := [text.index(stop) for stop in stops if stop in text]:
            return text[: min(found)]
    return engine.decode(tokens)


def _greedy(engine: StreamingEngine, prompt: list[int], room: int) -> Iterator[int]:
    """Tokens as far as they are asked for; of a server, which ends its answers itself but for the
    streams that are timed, all of them."""
    if Capability.COUNTS in engine.capabilities:
        yield from able(engine, GreedyEngine).greedy_tokens(prompt, room)
        return
    for event in engine.stream(prompt, room):
        yield event.token_id


def _ends(engine: Engine) -> frozenset[int]:
    """The tokens that end an answer; of a server, the one that its tokenizer knows."""
    if Capability.MODULES in engine.capabilities:
        return frozenset(end_tokens(able(engine, ModuleEngine)))
    end = getattr(getattr(engine, "tokenizer", None), "eos_token_id", None)
    return frozenset() if end is None else frozenset({end})
