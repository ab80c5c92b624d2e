"""What can be compared: an engine, a server's address, or a function of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engines.base import Engine
from ..release import ServerSource
from .answers import Prompt

__all__ = ["Side", "Sided"]

CACHE_DTYPE, COMPILED, VERSION = "cache dtype", "eager/compiled", "engine version"


@dataclass(frozen=True)
class Side:
    """A function of a prompt, and what else it can be asked for.

    ``answer`` returns what `Answer` describes: logits, tokens, an iterator of tokens, or an
    `Answer`, which can carry proof. ``batch`` answers several prompts in one pass, ``chunked`` one
    prompt whose prefill is computed in chunks of so many tokens, ``uncompiled`` as the model's own
    code would; ``flush`` empties caches. ``settings`` says by axis what the side runs with:
    ``{"cache dtype": "int8"}``. ``model`` is the torch module that computes, where it is in this
    process: it can be made to round otherwise, which shows what rounding may change. ``encode`` and
    ``decode`` are its tokenizer's. ``seeded`` draws tokens behind a prompt by the side's own
    sampler, from a seed and at a temperature. ``keeps_prompts`` says that it may have seen a prompt
    before this process did. ``close`` is for what was opened for the comparison.
    """

    answer: Callable[[Prompt], object]
    batch: Callable[[Sequence[Prompt]], Sequence[object]] | None = None
    chunked: Callable[[Prompt, int], object] | None = None
    uncompiled: Callable[[Prompt], object] | None = None
    flush: Callable[[], object] | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    model: Any = None
    encode: Callable[[str], Prompt] | None = None
    decode: Callable[[Sequence[Any]], str] = lambda tokens: " ".join(map(str, tokens))
    seeded: Callable[[Prompt, int, float], object] | None = None
    keeps_prompts: bool = False
    close: Callable[[], object] = lambda: None


Sided = Side | Engine | ServerSource | str | Callable[[Prompt], object]
