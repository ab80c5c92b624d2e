"""A server that speaks OpenAI's chat completions, as the serving engine of a candidate.

Requests are greedy and streamed: the last event tells how many tokens were drafted and accepted
(``timings``), which llama.cpp's server reports. vLLM counts them for all requests together, on its
page of Prometheus metrics. Source: OpenAI API reference, "Chat completions".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pytest_infopt import ServerSource
from pytest_infopt.engines.openai.client import ServerClient

Message = dict[str, str]

_COUNTER = re.compile(
    r"^vllm:spec_decode_num_(draft|accepted)_tokens(?:_total)?(?:{.*})? (\S+)", re.MULTILINE
)


@dataclass(frozen=True)
class DraftCounts:
    """Tokens that were drafted, and how many of them were accepted."""

    drafted: int
    accepted: int

    def since(self, earlier: DraftCounts) -> DraftCounts:
        """What came after an earlier reading."""
        return DraftCounts(self.drafted - earlier.drafted, self.accepted - earlier.accepted)


@dataclass(frozen=True)
class ServedAnswer:
    """One answer. ``drafts`` are None where the server does not report them."""

    text: str
    drafts: DraftCounts | None = None


class ChatServer:
    """The server at ``source.url``, such as ``http://localhost:8000/v1``."""

    def __init__(self, source: ServerSource) -> None:
        self.url = source.url
        self._client = ServerClient(source)
        self._model = source.model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def answer(self, messages: Sequence[Message], max_tokens: int) -> ServedAnswer:
        """The greedy answer to a chat; one that was cut, or refused for the moment, is asked again.

        Raises InvalidComparisonError where the server cannot be reached, refuses, or says nothing.
        """
        return self._client.retried(lambda: self._answer(messages, max_tokens))

    def _answer(self, messages: Sequence[Message], max_tokens: int) -> ServedAnswer:
        body: dict[str, Any] = {
            "messages": [dict(message) for message in messages],
            "model": self._model,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream_options": {"include_usage": True},
        }
        parts: list[str] = []
        timings: dict[str, Any] = {}
        for event in self._client.events("chat/completions", body):
            timings = event.get("timings") or timings
            for choice in event.get("choices") or ():
                parts.append((choice.get("delta") or {}).get("content") or "")
        if not any(parts):
            raise self._client.wrong("answered with no text")
        return ServedAnswer("".join(parts), _drafts(timings))

    def draft_counts(self) -> DraftCounts | None:
        """What vLLM has drafted for all requests so far; None where the server does not tell."""
        found = _COUNTER.findall(self._client.page("/metrics") or "")
        if not found:
            return None
        drafted, accepted = (
            int(sum(float(value) for name, value in found if name == asked))
            for asked in ("draft", "accepted")
        )
        return DraftCounts(drafted, accepted)


def _drafts(timings: dict[str, Any]) -> DraftCounts | None:
    """llama.cpp leaves the counts out where nothing was drafted."""
    if "draft_n" not in timings:
        return None
    return DraftCounts(int(timings["draft_n"]), int(timings.get("draft_n_accepted") or 0))
