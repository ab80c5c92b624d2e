"""What the suites for caches talk to: minimal protocols for a thin adapter.

A request is a mapping in OpenAI's chat format, with the fields ``tenant`` and ``adapter`` beside
those of the API; an answer is a mapping with ``content``, ``finish_reason``, ``usage`` and, if
there are any, ``tool_calls``. An implementation with types of its own converts. All times are in
seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Request = Mapping[str, Any]
Answer = Mapping[str, Any]
# A piece of an answer's ``content``; the last has no content, but ``finish_reason`` and ``usage``.
Chunk = Mapping[str, Any]
Compute = Callable[[], Awaitable[Answer]]
ComputeBatch = Callable[[Sequence[Request]], Awaitable[Sequence[Answer]]]
Embed = Callable[[str], Any]  # a text to a float32 vector of NumPy


class VirtualClock:
    """Seconds since the epoch, which pass when the suite says so."""

    def __init__(self, now: float = 1.8e9) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class CacheSpec:
    """The cache that the suite asks for.

    ``namespace``: caches of one namespace share their entries, where they can (capability
    "shared"), and caches of different ones do not know each other. In Redis it is part of the name
    of every key.
    ``clock``: the time by which entries end, for a cache that does not leave this to its store.
    ``ttl``: how long an entry lives that this instance keeps, None for ever.
    ``capacity``: the most entries that are kept, None for no limit.
    ``cache_sampled``: whether answers that were sampled may be kept and found (capability
    "policy"); another instance of the namespace may say otherwise.
    ``redis_url``: the server to keep entries in (capability "redis"); None without it.
    ``redis_timeout``: after how long a server that does not answer counts as down.
    ``directory``: of this namespace, for a cache that keeps entries in files.
    """

    namespace: str
    clock: VirtualClock
    directory: Path
    ttl: float | None = None
    capacity: int | None = None
    cache_sampled: bool = True
    redis_url: str | None = None
    redis_timeout: float = 0.5


class Cache(Protocol):
    """Answers by request. A method ``async close()`` is called at the end, if there is one."""

    async def get(self, request: Request, /) -> Answer | None:
        """The answer that is kept for this request, or None. Raises nothing, whatever its store
        does."""

    async def set(self, request: Request, answer: Answer, /) -> None:
        """Keep an answer, in place of any earlier one. Raises nothing because of its store."""


class ComputingCache(Cache, Protocol):
    """Capability "compute"."""

    async def get_or_compute(self, request: Request, compute: Compute, /) -> Answer:
        """The kept answer, or that of ``compute``, which is then kept; what it raises, this
        raises."""


class BatchCache(Cache, Protocol):
    """Capability "batch"."""

    async def get_or_compute_batch(
        self, requests: Sequence[Request], compute: ComputeBatch, /
    ) -> Sequence[Answer]:
        """An answer for each request, in their order. ``compute`` is called with those that are
        not kept; it returns its answers in any order, each with the place of its request among
        those that it got as ``index``. In what is returned, ``index`` is the place among all."""


class ClearableCache(Cache, Protocol):
    """Capability "clear"."""

    async def clear(self) -> None:
        """Forget all entries of this namespace and no others."""


class CountingCache(Cache, Protocol):
    """Capability "counters"."""

    async def counters(self) -> Mapping[str, int]:
        """``hits`` and ``misses`` of this namespace, and whatever else."""


class TimedCache(Cache, Protocol):
    """Capability "ttl per call"."""

    async def set(self, request: Request, answer: Answer, /, *, ttl: float | None = None) -> None:
        """Keep an answer for that long; None: for as long as ``spec.ttl`` says."""


class SynchronousLookup(Cache, Protocol):
    """Capability "sync"."""

    def lookup(self, request: Request, /) -> Answer | None:
        """What `get` returns, for callers without an event loop. It is called in a thread."""


class SynchronousCache(Cache, Protocol):
    """Capability "sync set"."""

    def keep(self, request: Request, answer: Answer, /) -> None:
        """What `set` does, for callers without an event loop. It is called in a thread."""


@dataclass(frozen=True)
class SemanticSpec(CacheSpec):
    """The semantic cache that the suite asks for.

    ``embed``: the embedder. It knows any text that has one of its phrases in it, such as the last
    message of the user alone or the whole conversation.
    ``dimension``: the length of its vectors.
    ``embedder``: its name; vectors of different embedders are not to be compared.
    ``threshold``: the cosine similarity from which an answer serves another question.
    """

    embed: Embed = lambda text: None
    dimension: int = 0
    threshold: float = 0.9
    embedder: str = "suite"


class Model(Protocol):
    """The model behind a layered cache, which the suite gives."""

    async def complete(self, request: Request, /) -> Answer:
        """One answer."""

    def stream(self, request: Request, /) -> AsyncIterator[Chunk]:
        """An answer, piece by piece."""


@dataclass(frozen=True)
class LayeredSpec(SemanticSpec):
    """The layered cache that the suite asks for: exact, then semantic, then ``model``.

    ``exact_ttl``, ``semantic_ttl``: how long an entry of that layer lives (capability "ttl per
    layer"); None: as ``ttl`` says.
    """

    model: Model | None = None
    exact_ttl: float | None = None
    semantic_ttl: float | None = None


class LayeredCache(Protocol):
    """Answers from the first layer that has one. ``async close()`` is called if there is one."""

    async def complete(self, request: Request, /, *, bypass: bool = False) -> Answer:
        """An answer; with ``bypass``, the model's own."""


class StreamingCache(LayeredCache, Protocol):
    """Capability "stream"."""

    def stream(self, request: Request, /) -> AsyncIterator[Chunk]:
        """An answer, piece by piece: the model's own chunks, or such as say the same."""


class CountingLayers(LayeredCache, Protocol):
    """Capability "counters"."""

    async def counters(self) -> Mapping[str, int]:
        """How many requests ``exact``, ``semantic`` and ``model`` have answered, and whatever
        else."""


MakeResponseCache = Callable[[CacheSpec], Any]  # a Cache, or an awaitable of one
MakeSemanticCache = Callable[[SemanticSpec], Any]
MakeLayeredCache = Callable[[LayeredSpec], Any]
