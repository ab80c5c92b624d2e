"""Attention, KV caches and decoders: clear implementations of what inference engines do."""

from .attention import attend, attend_with_lse
from .masks import causal_mask, token_positions, visible_keys

__all__ = ["attend", "attend_with_lse", "causal_mask", "token_positions", "visible_keys"]
