"""A GGUF file in llama.cpp.

llama.cpp rounds the activations before a quantized matrix to 8 bits, in blocks of 32 or 256. Of the
dtypes whose own error is granted, bfloat16 has about that resolution; files of floats have no less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base import StoredWeights
from ..contexts.engine import ContextEngine
from .spec import ENGINE

if TYPE_CHECKING:
    from .binding import LlamaModel

_ROUNDS_TO = "bfloat16"
_NARROWEST_FLOAT = 16  # bits of a weight; files mix formats, so this is said of all of them


class LlamaCppEngine(ContextEngine):
    """The protocols of `engines.base` that the spec claims."""

    def __init__(self, name: str, model: LlamaModel, tokenizer: Any, **details: Any) -> None:
        super().__init__(
            name, model, tokenizer, dtype=_ROUNDS_TO, capabilities=ENGINE.capabilities, **details
        )
        self._file = model

    def stored_weights(self) -> StoredWeights:
        """What the file keeps its weights as, on average."""
        file = self._file
        bits = 8 * file.nbytes / file.parameters
        if bits < _NARROWEST_FLOAT:
            return StoredWeights(0, _NARROWEST_FLOAT, file.nbytes)
        return StoredWeights(file.parameters, round(bits / 16) * 16, 0)
