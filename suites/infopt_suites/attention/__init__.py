"""Suites for attention and what keeps its keys and values."""

from .attention import AttentionSuite
from .protocol import Attention, AttentionSpec, MakeAttention

__all__ = ["Attention", "AttentionSpec", "AttentionSuite", "MakeAttention"]
