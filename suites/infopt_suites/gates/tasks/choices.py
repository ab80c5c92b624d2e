"""How a model chooses among the answers of an item.

By the log-likelihood of each answer where the engine scores texts: in process, or a server with
vLLM's ``prompt_logprobs`` or OpenAI's ``echo``. A server that tells of the next token alone is
asked for a letter instead, and so is the reference: that is a task of its own (Hendrycks et al.,
2021, "Measuring Massive Multitask Language Understanding", section 4), whose accuracy is not that
of log-likelihoods.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pytest_infopt import Engine
from pytest_infopt.engines.base import (
    Capability,
    ScoringEngine,
    TopScoresEngine,
    able,
    capabilities_of,
    lacking,
)

from .task_data import LETTERS, Task

BY_LETTERS = "by letters: the server scores no texts, and tells of the next token alone"


def scores_texts(engine: Engine) -> bool:
    """Whether the log-likelihood of a given text can be had."""
    if Capability.SCORES in engine.capabilities:
        return True
    return (
        Capability.TOP_SCORES in engine.capabilities and able(engine, TopScoresEngine).scores_texts
    )


def cannot_choose(task: Task, engine: Engine, chat: bool) -> str:
    """Why an engine can choose neither by log-likelihood nor by letters; "" where it can."""
    if scores_texts(engine):
        return ""
    if task.asking is not None or Capability.TOP_SCORES not in engine.capabilities:
        return lacking(engine.name, engine.capabilities, capabilities_of(ScoringEngine))
    count = max(len(item.choices) for item in task.items)
    if len({*letter_tokens(engine, count, chat)}) == count:
        return ""
    return (
        f"engine {engine.name!r} scores no texts, and the letters {LETTERS[0]} to "
        f"{LETTERS[count - 1]} are not a token each in its tokenizer"
    )


def letter_tokens(engine: Engine, count: int, chat: bool) -> list[int]:
    """The tokens that the first letters are, where an answer begins; fewer where a letter takes
    several."""
    read = [engine.encode(letter if chat else f" {letter}") for letter in LETTERS[:count]]
    return [ids[0] for ids in read if len(ids) == 1]


def most_probable_letter(engine: TopScoresEngine, prompt: list[int], letters: list[int]) -> int:
    """Which of the letters' tokens is the most probable next one, −1 where none of them is among
    those that the engine tells."""
    (row,) = engine.top_scores(prompt, [len(prompt) - 1])
    told = [place for place, token in enumerate(letters) if token in row]
    return max(told, key=lambda place: row[letters[place]], default=-1)


def log_likelihood(engine: Engine, prompt: list[int], continuation: list[int]) -> float:
    """ln P(continuation | prompt), in nats."""
    return likelihood(engine, prompt, continuation)[0]


def likelihood(engine: Engine, prompt: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The same, and whether each token of the continuation is the most probable one there."""
    whole, behind = [*prompt, *continuation], range(len(prompt) - 1, len(prompt + continuation) - 1)
    if Capability.SCORES not in engine.capabilities:
        rows = able(engine, TopScoresEngine).top_scores(whole, behind)
        told = [
            (row[token], max(row.values())) for row, token in zip(rows, continuation, strict=True)
        ]
        return sum(own for own, _ in told), all(own == best for own, best in told)
    logits = able(engine, ScoringEngine).score(whole).logits(behind.start, behind.stop)  # [T, V]
    chosen = torch.tensor(continuation, device=logits.device)[:, None]
    own = logits.double().log_softmax(-1).gather(1, chosen).sum()
    return float(own), bool((logits.argmax(-1) == chosen[:, 0]).all())


def lettered(question: str, choices: Sequence[str]) -> str:
    """A question with its choices below it, a letter each."""
    named = zip(LETTERS, choices, strict=False)
    return "\n".join([question, *(f"{letter}. {choice}" for letter, choice in named)])
