"""Prefix caching of a server: are its answers the model's, whatever its cache holds, and what was
not computed again?

A chat whose system prompt nobody has sent before is answered cold; the same one asked again is warm
if the server caches prefixes; another question behind the same system prompt is partly warm;
several at once behind a new one are concurrent; and the first is asked again after all of these.
Each greedy answer must be the one that the candidate's own model gives (`models_answers`). A server
that is wrong cold and warm alike is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_infopt import Sample

from ..chat_server import ChatServer, Message, ServedAnswer
from ..models_answers import ModelsAnswers

_AT_ONCE = 3  # chats that are asked at the same time


@dataclass(frozen=True)
class ChatTexts:
    """What chats are made of: two system prompts that are new to the server, and questions."""

    system: str
    another_system: str
    questions: Sequence[str]  # two or more

    def chat(self, question: int, another: bool = False) -> list[Message]:
        """A question behind a system prompt."""
        return [
            {"role": "system", "content": self.another_system if another else self.system},
            {"role": "user", "content": self.questions[question % len(self.questions)]},
        ]


def measure_served_chat(
    server: ChatServer, model: ModelsAnswers, texts: ChatTexts, max_tokens: int, unit: str
) -> Sample:
    """One chat by every way: cold, warm, partly warm, concurrent, and again.

    ``prefix_saved_share`` is the share of the warm prompt that came from the cache. It is left out
    where the server does not report it, and where it claims the cold prompt, too: nobody had sent
    that one, so the claim is worth nothing.
    """
    started = time.perf_counter()
    first, second = texts.chat(0), texts.chat(1)
    asked: list[tuple[str, list[Message], ServedAnswer]] = [
        (name, chat, server.answer(chat, max_tokens))
        for name, chat in (("cold", first), ("warm", first), ("partly warm", second))
    ]
    at_once = [texts.chat(question, another=True) for question in range(_AT_ONCE)]
    answers = server.answers(at_once, max_tokens)
    asked += [("concurrent", *pair) for pair in zip(at_once, answers, strict=True)]
    asked.append(("again", first, server.answer(first, max_tokens)))
    found = [(name, model.parting(chat, answer.text, unit)) for name, chat, answer in asked]
    wrong = {name: finding for name, finding in found if finding is not None}
    (_, _, cold), (_, _, warm), *_ = asked
    values = {"prefix_greedy_mismatches": float(len([f for _, f in found if f is not None]))}
    left_out = _distrust(cold, warm)
    if not left_out:
        assert warm.cached_tokens is not None
        values["prefix_saved_share"] = warm.cached_tokens / warm.prompt_tokens
    return Sample(
        unit=unit,
        weight=max(1, warm.prompt_tokens),
        values=values,
        findings=list(wrong.values()),
        details={
            "served": [
                [name, answer.prompt_tokens, answer.cached_tokens, answer.first_token_seconds]
                for name, _, answer in asked
            ],
            "mismatches": sorted(wrong),
            "left_out": {"prefix_saved_share": left_out} if left_out else {},
        },
        seconds=time.perf_counter() - started,
    )


def _distrust(cold: ServedAnswer, warm: ServedAnswer) -> str:
    """Why the server's word on what it saved does not count, or the empty string."""
    if warm.cached_tokens is None or not warm.prompt_tokens:
        return "the server does not report cached tokens"
    if cold.cached_tokens and 2 * cold.cached_tokens > warm.cached_tokens:
        return (
            f"the server reports {cold.cached_tokens} cached of {cold.prompt_tokens} tokens of a "
            "prompt that nobody had sent before"
        )
    return ""
