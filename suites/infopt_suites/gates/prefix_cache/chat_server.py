"""A server that speaks OpenAI's chat completions, as the serving engine of a candidate.

Requests are greedy and streamed: the stream tells when the first token arrives, its last event how
many tokens of the prompt came from the server's prefix cache (``usage.prompt_tokens_details``),
which vLLM, SGLang and OpenAI report. The client is a plain HTTP client, which no offline mode of a
model hub forbids to call a server. Source: OpenAI API reference, "Chat completions".
PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import httpx2

from pytest_infopt import ServerSource
from pytest_infopt.errors import InvalidComparisonError

Message = dict[str, str]
_END = "[DONE]"
_EXCERPT = 200  # characters of a refusal


@dataclass(frozen=True)
class ServedAnswer:
    """One answer. ``cached_tokens`` is None where the server does not report it."""

    text: str
    prompt_tokens: int
    cached_tokens: int | None
    first_token_seconds: float


class ChatServer:
    """The server at ``source.url``, such as ``http://localhost:8000/v1``; one connection is kept
    for all requests, so that setting it up is charged to none but the first."""

    def __init__(self, source: ServerSource, timeout: float) -> None:
        self._source = source
        key = os.environ.get(source.api_key_env, "none") if source.api_key_env else "none"
        self._url = f"{source.url.rstrip('/')}/chat/completions"
        self._client = httpx2.Client(headers={"Authorization": f"Bearer {key}"}, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def answer(self, messages: Sequence[Message], max_tokens: int) -> ServedAnswer:
        """The greedy answer to a chat.

        Raises InvalidComparisonError where the server cannot be reached, refuses, or says nothing.
        """
        try:
            return self._answer(messages, max_tokens)
        except (httpx2.HTTPError, ValueError) as error:  # the network's, and what is no JSON
            raise self._wrong(repr(error)) from error

    def answers(self, chats: Sequence[Sequence[Message]], max_tokens: int) -> list[ServedAnswer]:
        """The answers to several chats that are asked at once."""
        with ThreadPoolExecutor(len(chats)) as pool:
            return list(pool.map(lambda messages: self.answer(messages, max_tokens), chats))

    def _answer(self, messages: Sequence[Message], max_tokens: int) -> ServedAnswer:
        started = time.perf_counter()
        first: float | None = None
        parts: list[str] = []
        usage: dict[str, Any] = {}
        for event in self._events(messages, max_tokens):
            usage = event.get("usage") or usage
            for choice in event.get("choices") or ():
                content = (choice.get("delta") or {}).get("content")
                if content:
                    first = first or time.perf_counter()
                    parts.append(content)
        if first is None:
            raise self._wrong("answered with no text")
        return ServedAnswer(
            "".join(parts), int(usage.get("prompt_tokens") or 0), _cached(usage), first - started
        )

    def _events(self, messages: Sequence[Message], max_tokens: int) -> Iterator[dict[str, Any]]:
        body: dict[str, Any] = {
            "messages": [dict(message) for message in messages],
            "model": self._source.model,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        with self._client.stream("POST", self._url, json=body) as response:
            if response.is_error:
                excerpt = response.read().decode(errors="replace")[:_EXCERPT]
                raise self._wrong(f"refuses with status {response.status_code}: {excerpt}")
            for event in httpx2.EventSource(response):
                # Read to its end, so that the connection can be used again.
                found = {} if event.data == _END else event.json()
                if isinstance(found, dict):
                    yield found

    def _wrong(self, why: str) -> InvalidComparisonError:
        return InvalidComparisonError(f"server {self._source.url}: {why}")


def _cached(usage: dict[str, Any]) -> int | None:
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return None if cached is None else int(cached)
