"""A model behind any server that speaks OpenAI's chat completions (vLLM, llama.cpp, TGI, …).

Contract. The server gets every field of the request as it stands; the adapter, where there is one,
as the model's name, which is how servers offer adapters. The tenant stays here. Answers and streams
are read as the API defines them; a stream that ends before its finish reason was broken off.
Leaves out: more than one choice, retries, limits of rate (a proxy's business).

The client is huggingface_hub's, which transformers brings along: it knows proxies, certificates and
event streams. Source: OpenAI API reference, "Chat completions", "Streaming".
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from .answer import Answer
from .request import ChatRequest
from .service import ServiceError, StreamChunk, require_one_choice


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
        async with self._reply(request, stream=False) as reply:
            reply = _plain(reply)
            choice, usage = _only_choice(reply), reply.get("usage", {})
            message = dict(choice["message"])
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
        async with self._reply(request, stream=True) as reply:
            async for raw in reply:
                event = _plain(raw)
                usage = event.get("usage")
                if usage:
                    answer = replace(
                        answer,
                        prompt_tokens=usage.get("prompt_tokens", 0),
                        completion_tokens=usage.get("completion_tokens", 0),
                    )
                for choice in event.get("choices", []):
                    delta = choice.get("delta", {})
                    if choice.get("finish_reason"):
                        answer = replace(answer, finish_reason=choice["finish_reason"])
                    for call in delta.get("tool_calls", []):
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

    @asynccontextmanager
    async def _reply(self, request: ChatRequest, stream: bool) -> AsyncIterator[Any]:
        """The server's reply: a mapping, or an iterator of them. The connection ends with it."""
        from huggingface_hub import AsyncInferenceClient

        require_one_choice(request)
        body = {**request.parameters}
        if stream:
            body["stream_options"] = {"include_usage": True}
        client = AsyncInferenceClient(
            base_url=self.base_url, api_key=self._api_key, timeout=self._timeout
        )
        async with client:
            try:
                yield await client.chat_completion(
                    messages=[dict(message) for message in request.messages],
                    model=request.adapter or request.model,
                    stream=stream,
                    extra_body=body,
                )
            except ServiceError:
                raise
            except Exception as error:
                raise ServiceError(f"{self.base_url}: {error!r}") from error


def _only_choice(reply: Any) -> Any:
    choices = reply.get("choices", [])
    if len(choices) != 1:
        raise ServiceError(f"the server gave {len(choices)} choices; one was asked for")
    return choices[0]


def _plain(value: Any) -> Any:
    """Without the client's types, and without the fields that it adds where the server had none."""
    if isinstance(value, dict):
        fields = vars(value) if hasattr(value, "__dict__") else value  # unknown ones are there only
        return {name: _plain(inner) for name, inner in fields.items() if inner is not None}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _extend_call(call: dict[str, Any], delta: Any) -> None:
    """Adds a piece to a call of a tool: names come whole, arguments in pieces."""
    function = call.setdefault("function", {"name": "", "arguments": ""})
    for name in ("id", "type"):
        if delta.get(name):
            call[name] = delta[name]
    piece = delta.get("function", {})
    function["name"] += piece.get("name", "")
    function["arguments"] += piece.get("arguments", "")
