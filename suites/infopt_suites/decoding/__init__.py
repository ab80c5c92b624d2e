"""Suites for decoding: is what a speculative decoder emits what its target says?"""

from .protocol import (
    DecodingParameters,
    LanguageModel,
    MakeSpeculativeDecoder,
    SpeculativeCounts,
    SpeculativeDecoder,
    TokenCache,
)
from .speculative import SpeculativeSuite

__all__ = [
    "DecodingParameters",
    "LanguageModel",
    "MakeSpeculativeDecoder",
    "SpeculativeCounts",
    "SpeculativeDecoder",
    "SpeculativeSuite",
    "TokenCache",
]
