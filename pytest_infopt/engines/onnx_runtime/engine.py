"""An ONNX file in ONNX Runtime, whose KV cache can be weighed.

PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..base import Capability, MemoryFootprint, StoredWeights
from ..contexts.engine import ContextEngine
from ..spread_ids import spread_ids
from .graph import OnnxGraph
from .spec import ENGINE

if TYPE_CHECKING:
    from .session import OnnxModel

_OF_CACHES = frozenset({Capability.CACHE, Capability.KV_SIZE})


class OnnxEngine(ContextEngine):
    """The protocols of `engines.base` that the spec claims, as far as the file has inputs for them:
    batches take a mask, a cache takes batches and past keys and values."""

    def __init__(
        self,
        name: str,
        model: OnnxModel,
        graph: OnnxGraph,
        tokenizer: Any,
        boundaries: Mapping[str, int],
        **details: Any,
    ) -> None:
        without = frozenset[Capability]()
        if not model.tensors.batches:
            without = _OF_CACHES | {Capability.BATCHES}
        elif not model.tensors.past:
            without = _OF_CACHES
        super().__init__(
            name,
            model,
            tokenizer,
            dtype=graph.rounds_to,
            capabilities=ENGINE.capabilities - without,
            **details,
        )
        self._graph = graph
        self._past = model.tensors.past
        self._boundaries = boundaries

    def memory(self) -> MemoryFootprint:
        return MemoryFootprint(self._graph.nbytes, self._graph.buffer_bytes)

    def stored_weights(self) -> StoredWeights:
        """What the file keeps its weights as."""
        return self._graph.weights

    def kv_cache_bytes(self, tokens: int, batch: int = 1) -> int:
        """Bytes that the passes' own outputs hold."""
        with self._sequences([spread_ids(tokens, self.vocabulary)] * batch) as rows:
            rows.advance(tokens, last_only=True)
            return rows.nbytes

    def predicted_kv_bytes(self, tokens: int, batch: int = 1) -> int:
        """The same by the shapes that the file declares."""
        return tokens * batch * sum(each.token_bytes for each in self._past)

    def cache_boundaries(self) -> Mapping[str, int]:
        """Those of the config.json beside the file."""
        return self._boundaries
