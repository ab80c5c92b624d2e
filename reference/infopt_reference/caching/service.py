"""What answers requests: the protocol of a service, and how its streams look.

A stream is pieces of text, then one last chunk with the whole answer, text included. What ends
without that chunk was broken off.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Protocol

from .answer import Answer
from .request import ChatRequest


class ServiceError(Exception):
    """The model, or the server it runs on, gave no answer."""


@dataclass(frozen=True)
class StreamChunk:
    """A piece of an answer's text; of the last chunk, which has none, the whole answer."""

    text: str = ""
    answer: Answer | None = None


class LLMService(Protocol):
    """A model that answers chat requests. Both methods raise ValueError for a request that asks
    for what the service cannot do, and ServiceError where there is no answer."""

    async def complete(self, request: ChatRequest) -> Answer:
        """One answer."""

    def stream(self, request: ChatRequest) -> AsyncIterator[StreamChunk]:
        """An answer, piece by piece."""


def require_one_choice(request: ChatRequest) -> None:
    """Raises ValueError where the request asks for several choices."""
    count = request.parameters.get("n")
    if count not in (None, 1):
        raise ValueError(f"n is {count}; an answer has one choice, ask several times instead")


def replay(answer: Answer) -> Iterator[StreamChunk]:
    """A stored answer as a stream, word by word."""
    for word in re.findall(r"\s*\S+|\s+", answer.content or ""):
        yield StreamChunk(word)
    yield StreamChunk(answer=answer)
