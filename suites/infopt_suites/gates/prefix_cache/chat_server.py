"""A server that speaks OpenAI's chat completions, as the serving engine of a candidate.

Requests are greedy and streamed: the stream tells when the first token arrives, its last event how
many tokens of the prompt came from the server's prefix cache (``usage.prompt_tokens_details``),
which vLLM, SGLang and OpenAI report. The client is huggingface_hub's, which transformers brings
along. Source: OpenAI API reference, "Chat completions". PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_infopt import ServerSource
from pytest_infopt.errors import InvalidComparisonError

Message = dict[str, str]


@dataclass(frozen=True)
class ServedAnswer:
    """One answer. ``cached_tokens`` is None where the server does not report it."""

    text: str
    prompt_tokens: int
    cached_tokens: int | None
    first_token_seconds: float


class ChatServer:
    """The server at ``source.url``, such as ``http://localhost:8000/v1``."""

    def __init__(self, source: ServerSource, timeout: float) -> None:
        from huggingface_hub import InferenceClient

        self._source = source
        key = os.environ.get(source.api_key_env, "none") if source.api_key_env else "none"
        self._client = InferenceClient(base_url=source.url, api_key=key, timeout=timeout)

    def answer(self, messages: Sequence[Message], max_tokens: int) -> ServedAnswer:
        """The greedy answer to a chat.

        Raises InvalidComparisonError where the server cannot be reached, refuses, or says nothing.
        """
        try:
            return self._answer(messages, max_tokens)
        except InvalidComparisonError:
            raise
        except Exception as error:  # the client's own kinds, and those of the network below it
            raise InvalidComparisonError(f"server {self._source.url}: {error!r}") from error

    def _answer(self, messages: Sequence[Message], max_tokens: int) -> ServedAnswer:
        started = time.perf_counter()
        first: float | None = None
        parts: list[str] = []
        usage: Any = {}
        events: Any = self._client.chat_completion(
            messages=[dict(message) for message in messages],
            model=self._source.model or None,
            max_tokens=max_tokens,
            temperature=0.0,
            stream=True,
            extra_body={"stream_options": {"include_usage": True}},
        )
        for event in events:
            # As an attribute: the mapping's entry lacks what the client does not know.
            usage = getattr(event, "usage", None) or usage
            for choice in event.get("choices") or ():
                content = (choice.get("delta") or {}).get("content")
                if content:
                    first = first or time.perf_counter()
                    parts.append(content)
        if first is None:
            raise InvalidComparisonError(f"server {self._source.url} answered with no text")
        return ServedAnswer(
            "".join(parts), int(usage.get("prompt_tokens") or 0), _cached(usage), first - started
        )


def _cached(usage: Any) -> int | None:
    details = usage.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return None if cached is None else int(cached)
