"""The reference's predictions, kept on disk: computed once for all candidates and all later runs.

A document is kept as the decoder's last hidden states [T, D], V/D times smaller than its logits;
the few prompts of the equivalence gate as logits [T, V] in the dtype they were computed in.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from ..engines.base import Capability, Engine, HiddenStateEngine, Scores, ScoringEngine, able
from .tensor_cache import DEFAULT_BYTES, TensorCache

_TENSOR = "hidden_states"


@runtime_checkable
class _HiddenScores(Scores, Protocol):
    hidden_states: torch.Tensor | None


class ReferenceScores:
    """What the reference predicts, from the cache where it is there, else computed and kept."""

    def __init__(self, directory: Path, max_bytes: int = DEFAULT_BYTES) -> None:
        self._cache = TensorCache(directory, max_bytes)

    def of(self, engine: ScoringEngine, token_ids: Sequence[int]) -> Scores:
        """The engine's scores of a document, the same bits either way.

        An engine without hidden states, or without a fingerprint to know it by, is simply asked.
        """
        if Capability.HIDDEN_STATES not in engine.capabilities or not engine.fingerprint:
            return engine.score(token_ids)
        hidden = able(engine, HiddenStateEngine)
        identity = _identity(engine, engine.dtype, [token_ids], "hidden states")
        entry = self._cache.read(identity)
        if entry is not None and _TENSOR in entry and len(entry[_TENSOR]) == len(token_ids):
            return hidden.scores_from_hidden(entry[_TENSOR].to(engine.device))
        scores = engine.score(token_ids)
        if isinstance(scores, _HiddenScores) and scores.hidden_states is not None:
            self._cache.write(identity, {_TENSOR: scores.hidden_states})
        return scores

    def logits(
        self,
        engine: Engine,
        dtype: str,
        prompts: Sequence[Sequence[int]],
        compute: Callable[[], list[torch.Tensor]],
        *,
        what: str = "logits",
    ) -> list[torch.Tensor]:
        """Logits [T, V] of each prompt by the engine's weights in another dtype.

        ``what`` tells apart what is kept of them, such as their last rows alone.
        ``compute`` makes them where they are not kept; it may have to load the model once more.
        """
        identity = _identity(engine, dtype, prompts, what)
        entry = self._cache.read(identity) if engine.fingerprint else None
        if entry is None:
            found = compute()
            if engine.fingerprint:
                self._cache.write(identity, {str(i): part for i, part in enumerate(found)})
            return found
        return [entry[str(i)] for i in range(len(prompts))]


def _identity(
    engine: Engine, dtype: str, documents: Sequence[Sequence[int]], what: str
) -> dict[str, str]:
    """All that the numbers depend on, down to their last bit."""
    on_gpu = engine.device.startswith("cuda")
    return {
        "what": what,
        "model": engine.fingerprint,
        "dtype": dtype,
        "device": torch.cuda.get_device_name(engine.device) if on_gpu else engine.device,
        "instructions": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "tokens": hashlib.sha256(json.dumps([list(ids) for ids in documents]).encode()).hexdigest(),
    }
