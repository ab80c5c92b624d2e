"""A model behind any server that speaks OpenAI's chat completions (vLLM, llama.cpp, TGI, …).

Contract. The server gets every field of the request as it stands; the adapter, where there is one,
as the model's name, which is how servers offer adapters. The tenant stays here. Answers and streams
are read as the API defines them; a stream that ends before its finish reason was broken off.
Leaves out: more than one choice, retries, limits of rate (a proxy's business).

The client is httpx2, which transformers brings along: it knows proxies, certificates and event
streams, and no offline mode of a model hub forbids it to call a server. Source: OpenAI API
reference, "Chat completions", "Streaming".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx2

from .answer import Answer
from .request import ChatRequest
from .service import ServiceError, StreamChunk, require_one_choice

_PATH = "/chat/completions"
_END = "[DONE]"
_EXCERPT = 200  # characters of a refusal


class OpenAIService:
    """The server at ``base_url``, such as ``http://localhost:8000/v1``.

    ``timeout`` is in seconds without a word of the server.
    """

    def __init__(self, base_url: str, api_key: str = "none", timeout: float = 600.0) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._timeout = timeout

    async def complete(self, request: ChatRequest) -> Answer:
        """One answer.

        Raises:
            ValueError: the request asks for several choices.
            ServiceError: the server cannot be reached, or refuses.
        """
        body = {**self._body(request), "stream": False}
        with self._told():
            async with self._client() as client:
                response = await client.post(_PATH, json=body)
            _require_success(response)
            reply = _object(response.json())
        choice, usage = _only_choice(reply), reply.get("usage") or {}
        message = {name: value for name, value in choice["message"].items() if value is not None}
        message.pop("role", None)
        return Answer(
            content=message.pop("content", None),
            tool_calls=message.pop("tool_calls", None),
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            extra=message,
        )

    async def stream(self, request: ChatRequest) -> AsyncGenerator[StreamChunk, None]:
        """An answer, piece by piece; errors are those of `complete`."""
        parts: list[str] = []
        calls: dict[int, dict[str, Any]] = {}
        extra: dict[str, Any] = {}  # reasoning, …: text in pieces
        answer = Answer(None, finish_reason=None, extra=extra)
        with self._told():
            async for event in self._events(request):
                usage = event.get("usage")
                if usage:
                    answer = replace(
                        answer,
                        prompt_tokens=usage.get("prompt_tokens", 0),
                        completion_tokens=usage.get("completion_tokens", 0),
                    )
                for choice in event.get("choices") or ():
                    delta = {k: v for k, v in (choice.get("delta") or {}).items() if v is not None}
                    if choice.get("finish_reason"):
                        answer = replace(answer, finish_reason=choice["finish_reason"])
                    for call in delta.get("tool_calls") or ():
                        _extend_call(calls.setdefault(call.get("index", 0), {}), call)
                    if delta.get("content"):
                        parts.append(delta["content"])
                        yield StreamChunk(delta["content"])
                    for name in delta.keys() - {"role", "content", "tool_calls"}:
                        extra[name] = extra.get(name, type(delta[name])()) + delta[name]
        if answer.finish_reason is None:
            raise ServiceError(f"{self.base_url} broke the stream off after {len(parts)} pieces")
        content = "".join(parts) if parts or not calls else None
        yield StreamChunk(
            answer=replace(answer, content=content, tool_calls=list(calls.values()) or None)
        )

    async def _events(self, request: ChatRequest) -> AsyncIterator[dict[str, Any]]:
        """The events of a streamed answer."""
        body = {**self._body(request), "stream": True, "stream_options": {"include_usage": True}}
        async with self._client() as client, client.stream("POST", _PATH, json=body) as response:
            if response.is_error:
                await response.aread()
            _require_success(response)
            async for event in httpx2.EventSource(response):
                if event.data == _END:
                    return
                yield _object(event.json())

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        require_one_choice(request)
        return {
            **request.parameters,
            "messages": [dict(message) for message in request.messages],
            "model": request.adapter or request.model,
        }

    def _client(self) -> httpx2.AsyncClient:
        """A client of its own for each request, because each may come from another event loop."""
        return httpx2.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self._api_key}"},
            timeout=self._timeout,
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The network's errors, and replies that are no JSON, as the service's."""
        try:
            yield
        except (httpx2.HTTPError, ValueError) as error:
            raise ServiceError(f"{self.base_url}: {error!r}") from error


def _require_success(response: httpx2.Response) -> None:
    if response.is_error:
        raise ServiceError(
            f"{response.url}: status {response.status_code}: {response.text[:_EXCERPT]}"
        )


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ServiceError(f"the server sent {type(value).__name__} where an object belongs")
    return value


def _only_choice(reply: Any) -> Any:
    choices = reply.get("choices", [])
    if len(choices) != 1:
        raise ServiceError(f"the server gave {len(choices)} choices; one was asked for")
    return choices[0]


def _extend_call(call: dict[str, Any], delta: Any) -> None:
    """Adds a piece to a call of a tool: names come whole, arguments in pieces."""
    function = call.setdefault("function", {"name": "", "arguments": ""})
    for name in ("id", "type"):
        if delta.get(name):
            call[name] = delta[name]
    piece = delta.get("function", {})
    function["name"] += piece.get("name", "")
    function["arguments"] += piece.get("arguments", "")
