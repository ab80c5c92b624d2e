"""What servers report of an answer's cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["cached_tokens"]


def cached_tokens(told: Mapping[str, Any]) -> int | None:
    """Tokens of a prompt that came from the server's prefix cache; None where it tells none.

    ``told`` is the end of an answer. vLLM, SGLang and OpenAI tell them in ``prompt_tokens_details``
    (OpenAI API reference, "The usage object"), llama.cpp as ``cache_n`` in ``timings``
    (tools/server/README.md).
    """
    details = (told.get("prompt_tokens_details") or {}).get("cached_tokens")
    cached = (told.get("timings") or {}).get("cache_n") if details is None else details
    return None if cached is None else int(cached)
