"""mlx-lm 0.32: ConcatenateKVCache.trim removes nothing.

It lowers `offset` alone; the next `update_and_fetch` appends behind the tokens that were trimmed
and reads `offset` from the length of the keys, so they are back. mlx-lm#1502 mends it among other
things and was closed unmerged. Breaks
KVCacheSuite.test_cropping_then_appending_equals_never_having_appended.
"""

from __future__ import annotations

from recorded import recorded

cache = recorded("mlx_lm.models.cache", "mlx-lm>=0.32,<0.33")
mx = recorded("mlx.core", "mlx>=0.32")


def test_trimmed_tokens_come_back_with_the_next() -> None:
    keys = mx.arange(4).reshape(1, 1, 4, 1)
    trimmed = cache.ConcatenateKVCache()
    trimmed.update_and_fetch(keys, keys)
    assert trimmed.trim(2) == 2
    held, _ = trimmed.update_and_fetch(keys[:, :, 3:], keys[:, :, 3:])
    assert held.flatten().tolist() == [0, 1, 2, 3, 3]  # right: 0, 1, 3
