"""The engine contract: a loaded model, and what it can do beyond having a name and a vocabulary.

Measuring code knows engines by these protocols only, so that what it measures on a transformers
model in process it measures on a server too, as far as the server's capabilities reach. Every
capability has its protocol; code that needs several names their intersection:

    class CacheEngine(WholeLogitsEngine, CachedEngine, Protocol): ...
    engine = able(pair.candidate, CacheEngine)

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from ..errors import NotSupportedError

if TYPE_CHECKING:
    import torch

    from .result_files.recording import Recording

__all__ = [
    "BatchEngine",
    "CacheReading",
    "CachedEngine",
    "CannotCropError",
    "Capability",
    "CountedAnswer",
    "CountedEngine",
    "DraftedEngine",
    "Drafting",
    "Engine",
    "Generated",
    "GreedyEngine",
    "HiddenStateEngine",
    "InProcessEngine",
    "KVSizeEngine",
    "LoadEngine",
    "MemoryFootprint",
    "ModuleEngine",
    "RecordedEngine",
    "Scores",
    "ScoringEngine",
    "ServingPathsEngine",
    "StoredWeights",
    "StreamingEngine",
    "TokenEvent",
    "TopScoresEngine",
    "WeighedEngine",
    "WholeLogitsEngine",
    "able",
    "capabilities_of",
    "completes_chats_only",
    "lacking",
    "missing",
]


class Capability(StrEnum):
    """What an engine can do; the value is the phrase that reports print."""

    SCORES = "scores"  # the distribution at each position of a given text
    TOP_SCORES = "top scores"  # the log-probabilities of a position's most probable tokens
    GREEDY = "greedy tokens"  # can be asked for its own tokens behind a prompt
    FULL_LOGITS = "full logits"  # the logits of a plain forward pass, every vocabulary entry
    HIDDEN_STATES = "hidden states"  # scores can be kept as hidden states, and made from them again
    BATCHES = "batches"  # several prompts in one pass
    CACHE = "cache"  # can be driven step by step through its KV cache
    KV_SIZE = "KV cache size"  # its KV cache can be weighed, and predicted
    COUNTS = "counts of cached tokens"  # answers with what its prefix cache spared it, if it says
    STREAM = "stream"  # can generate token by token, with arrival times
    LOAD = "concurrent streams"  # can serve many requests at once, with arrival times
    MEMORY = "memory"  # can say what its weights weigh
    SERVING_PATHS = "serving paths"  # can compute the same logits as servers do
    DRAFTS = "drafted generation"  # can generate with tokens that a draft proposes
    MODULES = "modules"  # the model is at hand: dtype errors, localisation, other caches
    RECORDED = "recorded results"  # says what other tools have measured of it, and nothing else


class Scores(Protocol):
    """Teacher-forced next-token logits of one document, computed a few rows at a time.

    Row t holds the logits of the token after position t. The whole matrix is never needed, and for
    a vocabulary of 151,936 it would be 2.5 GB at 4,096 positions.
    """

    @property
    def positions(self) -> int:
        """Rows: one for each token of the document."""

    @property
    def vocabulary(self) -> int:
        """Columns."""

    def logits(self, start: int, stop: int) -> torch.Tensor:
        """Rows start…stop−1, [stop − start, vocabulary], in the engine's own dtype."""


@dataclass(frozen=True)
class TokenEvent:
    """A generated token and when it arrived, in seconds of `time.perf_counter`."""

    token_id: int
    arrived: float


@dataclass(frozen=True)
class Drafting:
    """Who proposes tokens, and how many for each pass; without an engine, n-grams that the text has
    had before are proposed (prompt lookup)."""

    engine: Engine | None
    num_tokens: int


@dataclass(frozen=True)
class Generated:
    """Generated tokens, the passes of the model that they took, and the drafted tokens that those
    passes checked."""

    token_ids: tuple[int, ...]
    passes: int
    drafted: int

    @property
    def accepted(self) -> int:
        """Drafted tokens that were kept: of what a pass emits, the last token is the model's.

        Of a pass that the length or an end token cuts, the last token counts as the model's too,
        though it may have been drafted. The counts contradict each other where this is negative or
        more than ``drafted``.
        """
        return len(self.token_ids) - self.passes


@dataclass(frozen=True)
class CountedAnswer:
    """Greedy tokens, fewer than asked for where the engine ended its answer; how many tokens of the
    prompt came from a prefix cache, None where that is not told; the time to the first token.

    ``rows`` has for each token the log-probabilities (nats) of the most probable ones in its place,
    by id, as far as they are told; it is empty where none are.
    """

    token_ids: tuple[int, ...]
    cached_tokens: int | None
    first_token_seconds: float
    rows: tuple[Mapping[int, float], ...] = ()


@dataclass(frozen=True)
class MemoryFootprint:
    """Bytes by category. Peaks are None where the device has no allocator that reports them."""

    weight_bytes: int
    buffer_bytes: int
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None


@dataclass(frozen=True)
class StoredWeights:
    """What a loaded model's weights are kept as: ``floats`` values in 16 bits or more, most of them
    in ``float_bits``, and ``coded_bytes`` of narrower codes; ``integer_activations`` says that what
    they are multiplied with is rounded to 8 bits, too."""

    floats: int
    float_bits: int
    coded_bytes: int
    integer_activations: bool = False


@dataclass(frozen=True)
class CacheReading:
    """A KV cache at one length: what it holds, and what a step that led there cost."""

    tokens: int
    batch: int
    nbytes: int
    step_seconds: float


class CannotCropError(Exception):
    """A cache that takes no tokens back, such as a window that has moved on."""


class Engine(Protocol):
    """A loaded model.

    ``dtype`` is the compute dtype's name ("float32", "bfloat16", "float16"): the format whose own
    rounding the equivalence gate grants. ``fingerprint`` identifies weights and loader options.
    ``capabilities`` say which of the protocols below it keeps.
    """

    name: str
    fingerprint: str
    capabilities: frozenset[Capability]
    dtype: str
    device: str
    vocabulary: int
    context_window: int

    @property
    def tokenizer_fingerprint(self) -> str:
        """Identifies the mapping from text to ids."""

    def encode(self, text: str, begins_with: str = "nothing") -> list[int]:
        """Token ids of a text; ``begins_with`` is one of `release.BEGINNINGS`.

        "nothing": without special tokens; "tokenizer": behind those that the tokenizer puts before
        every text; "chat": as a user's message in the chat template, up to where an answer begins.
        Raises NoChatTemplateError where there is none.
        """

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids."""

    def close(self) -> None:
        """Give the model's memory back; the engine is unusable afterwards."""


class ScoringEngine(Engine, Protocol):
    """An engine that scores given texts."""

    def score(self, token_ids: Sequence[int]) -> Scores:
        """Teacher-forced logits; raises NonFiniteLogitsError when they hold NaN or infinity."""


class TopScoresEngine(Engine, Protocol):
    """An engine that tells of each position what it finds most probable."""

    @property
    def scores_texts(self) -> bool:
        """Whether all positions of a text are scored at once; else each costs a request."""

    def top_scores(
        self, token_ids: Sequence[int], positions: Sequence[int]
    ) -> list[Mapping[int, float]]:
        """Of each of the rising positions t, the log-probabilities (nats) of the most probable
        tokens t + 1 by id; that of the text's own token where the engine tells it. Raises
        NonFiniteLogitsError for NaN."""


class GreedyEngine(Engine, Protocol):
    """An engine that can be asked for its greedy tokens."""

    def greedy_tokens(self, token_ids: Sequence[int], count: int) -> list[int]:
        """At most ``count`` greedy tokens; fewer where the engine ends its answer."""


class CountedEngine(Engine, Protocol):
    """An engine that keeps the beginnings of prompts, and may say what that spared it."""

    @property
    def prompts_begin_with(self) -> str:
        """One of `release.BEGINNINGS`: "chat" where only chats are completed."""

    def counted_answer(self, token_ids: Sequence[int], count: int) -> CountedAnswer:
        """At most ``count`` greedy tokens, asked for once: a repetition would find a cache."""


class WholeLogitsEngine(Engine, Protocol):
    """An engine that gives whole logit matrices."""

    def full_logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Logits of one plain forward pass, [T, V]."""


class HiddenStateEngine(ScoringEngine, Protocol):
    """An engine whose scores can be kept as hidden states."""

    def scores_from_hidden(self, hidden: torch.Tensor) -> Scores:
        """Scores from hidden states [T, D] that an engine of this fingerprint returned earlier."""


class BatchEngine(Engine, Protocol):
    """An engine that computes several prompts in one pass."""

    def batch_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Each prompt's logits from one left-padded batch, [T_i, V] each."""

    def generate(self, prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int]]:
        """Greedy tokens of each prompt from one batch, ``counts`` of them."""

    def pass_seconds(self, batch: int, context: int, tokens: int) -> float:
        """What a pass over ``tokens`` tokens of each of ``batch`` rows costs behind ``context``."""


class CachedEngine(Engine, Protocol):
    """An engine that can be driven through its KV cache."""

    def through_cache(
        self,
        prompts: Sequence[Sequence[int]],
        sizes: Sequence[int],
        rejected: Sequence[int] = (),
    ) -> list[torch.Tensor]:
        """Each prompt's logits [T_i, V] from one batch in passes of ``sizes`` tokens, then of one.

        Before each pass but the first, the tokens ``rejected`` are computed and taken back, as in
        speculative decoding; raises CannotCropError where the cache refuses.
        """

    def cached_logits(self, token_ids: Sequence[int], prefill: int) -> torch.Tensor:
        """Logits with the first ``prefill`` tokens at once, then one by one, [T, V]."""

    def cached_tail(
        self,
        token_ids: Sequence[int],
        tail: int,
        chunk: int,
        reads: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Logits [tail, V] of the last tokens, one by one behind a prefill in chunks.

        ``reads`` receives keys, values and states by layer, as the last step was given them.
        """

    def cache_readings(
        self, lengths: Sequence[int], batch: int = 1, steps: int = 1
    ) -> list[CacheReading]:
        """The cache of ``batch`` sequences at each of the rising lengths; the last ``steps`` tokens
        before it are decoded one by one, and timed."""

    def uncached_step_seconds(self, tokens: int) -> float:
        """What the next token costs without a cache: one pass over all ``tokens`` tokens."""


class KVSizeEngine(Engine, Protocol):
    """An engine whose KV cache can be weighed."""

    def kv_cache_bytes(self, tokens: int, batch: int = 1) -> int:
        """Bytes that the cache of ``batch`` sequences of ``tokens`` tokens really holds."""

    def predicted_kv_bytes(self, tokens: int, batch: int = 1) -> int | None:
        """The same by the formula of the architecture, layer by layer; None where none is known."""

    def cache_boundaries(self) -> Mapping[str, int]:
        """Tokens beyond which the model or its cache works otherwise, by what declares them."""


class ServingPathsEngine(Engine, Protocol):
    """An engine that computes a prompt's logits by the paths that serve it."""

    def last_logits(self, token_ids: Sequence[int], count: int = 1) -> torch.Tensor:
        """Logits [count, V] of the last positions, from a pass that is asked for no others."""

    def right_padded_logits(self, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Each prompt's logits from one right-padded batch, [T_i, V] each."""

    def library_tokens(self, token_ids: Sequence[int], count: int) -> list[int]:
        """``count`` greedy tokens by the model library's own generation."""

    def eager_logits(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        """Logits [T, V] by attention without a fused kernel; None where nothing else is set."""

    def uncompiled_logits(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        """Logits [T, V] of the model's own Python code; None where nothing was compiled."""


class DraftedEngine(Engine, Protocol):
    """An engine whose library generates with drafted tokens (speculative decoding)."""

    def generated(
        self,
        token_ids: Sequence[int],
        count: int,
        drafting: Drafting | None = None,
        ends: Sequence[int] = (),
    ) -> Generated:
        """``count`` greedy tokens as the library serves them, or up to the first of ``ends``."""


class StreamingEngine(Engine, Protocol):
    """An engine that generates token by token."""

    def stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> Iterator[TokenEvent]:
        """Greedy tokens as they arrive; exactly max_new_tokens, whatever the end token says."""


class LoadEngine(Engine, Protocol):
    """An engine that serves many requests at once, from one event loop."""

    async def open_streams(self, count: int) -> None:
        """Get ready for so many requests at once, on the running event loop."""

    async def load_stream(self, prompt_ids: Sequence[int], max_new_tokens: int) -> list[TokenEvent]:
        """As `stream`, once the last token has arrived; raises where the request fails."""

    def close_streams(self) -> None:
        """Give back what `open_streams` made."""


class WeighedEngine(Engine, Protocol):
    """An engine that knows what it weighs."""

    def memory(self) -> MemoryFootprint:
        """What the model weighs now, and its peaks since the last `reset_peaks`."""

    def reset_peaks(self) -> None:
        """Start the peak counters anew."""

    def stored_weights(self) -> StoredWeights:
        """What its weights are kept as."""


class ModuleEngine(Engine, Protocol):
    """An engine whose torch model is in this process."""

    last_only: dict[str, Any]  # arguments of `forward` that ask for the last row's logits alone

    @property
    def module(self) -> Any:
        """The transformers model itself."""

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer."""

    @property
    def cache_dtype(self) -> str:
        """The dtype's name in which keys and values are kept."""

    def keep_vocabulary(self, count: int) -> None:
        """Cut logits to the first ``count`` entries, from now on."""

    def forward(self, **inputs: Any) -> Any:
        """The model's own forward in the engine's arithmetic, without a cache unless asked."""


class RecordedEngine(Engine, Protocol):
    """An engine that tells what was measured of it elsewhere."""

    @property
    def recordings(self) -> Sequence[Recording]:
        """Sessions and answers, in the order in which their files are named."""


class InProcessEngine(
    HiddenStateEngine,
    TopScoresEngine,
    GreedyEngine,
    WholeLogitsEngine,
    BatchEngine,
    CachedEngine,
    KVSizeEngine,
    StreamingEngine,
    LoadEngine,
    WeighedEngine,
    ServingPathsEngine,
    DraftedEngine,
    ModuleEngine,
    Protocol,
):
    """An engine that can do everything on a model of its own; servers alone count cached tokens."""


_PROTOCOLS: Mapping[Capability, type] = {
    Capability.SCORES: ScoringEngine,
    Capability.TOP_SCORES: TopScoresEngine,
    Capability.GREEDY: GreedyEngine,
    Capability.FULL_LOGITS: WholeLogitsEngine,
    Capability.HIDDEN_STATES: HiddenStateEngine,
    Capability.BATCHES: BatchEngine,
    Capability.CACHE: CachedEngine,
    Capability.KV_SIZE: KVSizeEngine,
    Capability.COUNTS: CountedEngine,
    Capability.STREAM: StreamingEngine,
    Capability.LOAD: LoadEngine,
    Capability.MEMORY: WeighedEngine,
    Capability.SERVING_PATHS: ServingPathsEngine,
    Capability.DRAFTS: DraftedEngine,
    Capability.MODULES: ModuleEngine,
    Capability.RECORDED: RecordedEngine,
}

Able = TypeVar("Able")


def capabilities_of(protocol: type) -> frozenset[Capability]:
    """What an engine has to claim to keep a protocol, or an intersection of them."""
    return frozenset(known for known, own in _PROTOCOLS.items() if own in protocol.__mro__)


def completes_chats_only(engine: Engine) -> bool:
    """Whether an engine's prompts have to be chats, as ``engine.encode(text, "chat")`` gives
    them."""
    if Capability.COUNTS not in engine.capabilities:
        return False
    return able(engine, CountedEngine).prompts_begin_with == "chat"


def missing(has: Set[Capability], required: Set[Capability]) -> str:
    """What of the required is not there: "full logits, batches", or ""."""
    return ", ".join(known for known in Capability if known in required - has)


def lacking(name: str, has: Set[Capability], required: Set[Capability]) -> str:
    """What an engine lacks of what is required: "engine 'x' lacks: full logits, batches", or ""."""
    found = missing(has, required)
    return f"engine {name!r} lacks: {found}" if found else ""


def able(engine: Engine, protocol: Callable[..., Able]) -> Able:
    """The engine, known to keep a protocol; NotSupportedError names what it lacks.

    For type checkers, ``protocol`` is not a type: they refuse abstract classes there.
    """
    required = capabilities_of(cast(type, protocol))
    if problem := lacking(engine.name, engine.capabilities, required):
        raise NotSupportedError(problem)
    return cast(Able, engine)
