"""The side that a loaded engine is: logits where it gives whole ones, else tokens as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..engines.base import (
    BatchEngine,
    CachedEngine,
    Capability,
    Engine,
    GreedyEngine,
    ModuleEngine,
    ServingPathsEngine,
    StreamingEngine,
    WholeLogitsEngine,
    able,
)
from ..errors import NotSupportedError
from .answers import Answer, Prompt
from .sides import CACHE_DTYPE, COMPILED, VERSION, Side

if TYPE_CHECKING:
    import torch


class _PathsEngine(WholeLogitsEngine, ServingPathsEngine, Protocol):
    """What is asked for logits by the model's own code."""


class _SamplingEngine(WholeLogitsEngine, ModuleEngine, Protocol):
    """What is asked for tokens drawn from its logits."""


def engine_side(engine: Engine, new_tokens: int) -> Side:
    has = engine.capabilities
    if Capability.FULL_LOGITS not in has:
        return _generating_side(engine, new_tokens)
    whole = able(engine, WholeLogitsEngine)
    modules = Capability.MODULES in has
    return Side(
        lambda prompt: whole.full_logits(_ids(prompt)),
        batch=partial(_batched, able(engine, BatchEngine)) if Capability.BATCHES in has else None,
        chunked=partial(_chunked, able(engine, CachedEngine)) if Capability.CACHE in has else None,
        uncompiled=(
            partial(_uncompiled, able(engine, _PathsEngine))
            if Capability.SERVING_PATHS in has
            else None
        ),
        settings=_settings(able(engine, ModuleEngine)) if modules else _kept(engine),
        model=able(engine, ModuleEngine).module if modules else None,
        encode=lambda text: engine.encode(text, "tokenizer"),
        decode=engine.decode,
        seeded=partial(_drawn, able(engine, _SamplingEngine), new_tokens) if modules else None,
    )


def _settings(engine: ModuleEngine) -> dict[str, str]:
    found = {CACHE_DTYPE: engine.cache_dtype, VERSION: type(engine).__name__}
    return found | {COMPILED: "eager"} | compiled_setting(engine.module.modules())


def _kept(engine: Engine) -> dict[str, str]:
    """The format of a cache of its own, which hides the model."""
    kept = getattr(engine, "kv_cache", "")
    return {CACHE_DTYPE: kept} if kept else {}


def compiled_setting(parts: Iterable[object]) -> dict[str, str]:
    """That a part is compiled, where one is; of a function in another function nothing is known."""
    from ..engines.transformers.serving_paths import is_compiled

    return {COMPILED: "compiled"} if any(map(is_compiled, parts)) else {}


def _generating_side(engine: Engine, new_tokens: int) -> Side:
    """Tokens as they come, where the engine streams."""
    answer: Callable[[Prompt], object]
    if Capability.STREAM in engine.capabilities:
        streaming = able(engine, StreamingEngine)
        answer = lambda prompt: _tokens(streaming, prompt, new_tokens)  # noqa: E731
    else:
        greedy = able(engine, GreedyEngine)
        answer = lambda prompt: greedy.greedy_tokens(_ids(prompt), new_tokens)  # noqa: E731
    return Side(answer, encode=lambda text: engine.encode(text, "tokenizer"), decode=engine.decode)


def _tokens(engine: StreamingEngine, prompt: Prompt, count: int) -> Iterator[int]:
    for event in engine.stream(_ids(prompt), count):
        yield event.token_id


def _drawn(
    engine: _SamplingEngine, count: int, prompt: Prompt, seed: int, temperature: float
) -> list[str]:
    """A text drawn as torch's multinomial draws of the whole distribution, up to its end."""
    import torch

    ids = engine.encode(prompt, "tokenizer") if isinstance(prompt, str) else list(prompt)
    drawn, generator = list[int](), torch.Generator().manual_seed(seed)
    while len(drawn) < count and engine.tokenizer.eos_token_id not in drawn:
        logits = engine.full_logits([*ids, *drawn])[-1].float().cpu() / temperature
        drawn.append(int(torch.multinomial(logits.softmax(-1), 1, generator=generator)))
    ended = drawn[-1] == engine.tokenizer.eos_token_id
    return [engine.decode(drawn[:-1] if ended else drawn)]


def _ids(prompt: Prompt) -> list[int]:
    if isinstance(prompt, str):
        raise TypeError(f"an engine takes token ids; encode {prompt!r:.40} first")
    return list(prompt)


def _batched(engine: BatchEngine, prompts: Sequence[Prompt]) -> list[Answer]:
    """The rows of a batch; with how many one pass computed, where that can be seen."""
    from ..measure import rows_of_passes

    with rows_of_passes(engine) as passes:
        rows = engine.batch_logits([_ids(prompt) for prompt in prompts])
    together = max(passes) if passes else None
    return [Answer(logits=row, together=together) for row in rows]


def _chunked(engine: CachedEngine, prompt: Prompt, size: int) -> Answer:
    """The prompt through the cache in chunks; with the passes that were seen."""
    from ..measure import rows_of_passes

    ids = _ids(prompt)
    sizes = [min(size, len(ids) - start) for start in range(0, len(ids), size)]
    with rows_of_passes(engine) as passes:
        (logits,) = engine.through_cache([ids], sizes)
    return Answer(logits=logits, passes=len(passes) or None)


def _uncompiled(engine: _PathsEngine, prompt: Prompt) -> torch.Tensor:
    logits = engine.uncompiled_logits(_ids(prompt))
    if logits is None:
        raise NotSupportedError(f"engine {engine.name!r}: nothing of its model is compiled")
    return logits
