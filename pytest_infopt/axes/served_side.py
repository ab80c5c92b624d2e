"""The side that a server's address is: OpenAI's completions, streamed, without a tokenizer here.

Prompts are texts, or token ids where the server takes them. Answers are the server's tokens where
it tells them with their log-probabilities, else words. Cached tokens are read where vLLM, SGLang
and OpenAI (``usage.prompt_tokens_details``) and llama.cpp (``timings.cache_n``) tell them, the
version where vLLM (``/version``) and llama.cpp (``/props``) do. Sources: OpenAI API reference,
"Completions"; vLLM, "OpenAI-compatible server"; llama.cpp, tools/server/README.md.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..engines.openai.client import ServerClient
from ..engines.openai.load import model_there
from ..engines.openai.usage import cached_tokens
from ..errors import InvalidComparisonError
from ..release import ServerSource
from .answers import WORD, Answer, Prompt, Token, arrival
from .sides import VERSION, Side

_TOP = 5  # tokens of a position: the most that OpenAI's completions tell
_VERSIONS = {"/version": "version", "/props": "build_info"}


def served_side(server: str | ServerSource, new_tokens: int) -> Side:
    """The server at an address, such as ``http://localhost:8000/v1``, or a source that names its
    model, too.

    Raises InvalidComparisonError where it cannot be reached, or has several models and none is
    named.
    """
    source = ServerSource(server) if isinstance(server, str) else server
    client = ServerClient(source)
    try:
        model, settings = str(model_there(client, source)["id"]), _settings(client)
    except BaseException:
        client.close()
        raise

    def answer(prompt: Prompt, seed: int = 0, temperature: float = 0.0) -> Answer:
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt if isinstance(prompt, str) else list(prompt),
            "max_tokens": new_tokens,
            "temperature": temperature,
            "seed": seed,
            "top_p": 1.0,  # llama.cpp's own leaves a single token where the model is certain
            "logprobs": _TOP,
            "stream_options": {"include_usage": True},
        }
        return client.retried(lambda: _read(client.events("completions", body)))

    return Side(
        answer,
        seeded=answer,
        settings=settings,
        encode=lambda text: text,
        decode="".join,
        keeps_prompts=True,
        close=client.close,
    )


def _settings(client: ServerClient) -> dict[str, str]:
    for path, field in _VERSIONS.items():
        with contextlib.suppress(InvalidComparisonError, ValueError):
            told = json.loads(client.page(path) or "{}")
            if isinstance(told, dict) and told.get(field):
                return {VERSION: str(told[field])}
    return {}


def _read(events: Iterator[Mapping[str, Any]]) -> Answer:
    """The answer that the events of a stream make."""
    text, arrivals, cached = "", list[int](), None
    rows: list[tuple[Token, Mapping[Token, float]]] = []
    for event in events:
        found = cached_tokens({**(event.get("usage") or {}), "timings": event.get("timings")})
        cached = cached if found is None else found
        for choice in event.get("choices") or ():
            rows += _rows(choice.get("logprobs") or {})
            if choice.get("text"):
                arrivals.append(arrival())
                text += str(choice["text"])
    span = (arrivals[0], arrivals[-1]) if arrivals else None
    if rows and "".join(str(token) for token, _ in rows) == text:
        tokens, top = zip(*rows, strict=True)
        return Answer(tokens=tokens, top=top, cached_tokens=cached, span=span)
    return Answer(tokens=WORD.findall(text), cached_tokens=cached, span=span)


def _rows(told: Mapping[str, Any]) -> list[tuple[Token, Mapping[Token, float]]]:
    """Tokens with what is told of the most probable ones, in OpenAI's old form or its new one."""
    content: Sequence[Mapping[str, Any]] = told.get("content") or ()
    new: list[tuple[Token, Mapping[Token, float]]] = [
        (each["token"], {top["token"]: top["logprob"] for top in each.get("top_logprobs") or ()})
        for each in content
    ]
    old = zip(told.get("tokens") or (), told.get("top_logprobs") or (), strict=False)
    return new or [(token, dict(top or {})) for token, top in old]
