"""KV caches and sequences of writes for the properties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st


@dataclass(frozen=True)
class CacheCase:
    """A cache, and the numbers of tokens that are written into it one after the other."""

    layers: int = 2
    batch: int = 2
    kv_heads: int = 2
    window: int | None = None
    chunks: tuple[int, ...] = (1,)


@st.composite
def cache_cases(draw: st.DrawFn, windows: Sequence[int | None]) -> CacheCase:
    """Caches of few heads, and up to five writes of up to six tokens."""
    return CacheCase(
        layers=draw(st.integers(1, 3)),
        batch=draw(st.integers(1, 3)),
        kv_heads=draw(st.integers(1, 3)),
        window=draw(st.sampled_from(windows)),
        chunks=tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))),
    )


def cache_traps(windows: Sequence[int | None]) -> Iterator[tuple[str, CacheCase]]:
    """Lengths around every edge of a window, and what comes after it is full."""
    for window in windows:
        size = window or 4
        for prompt in range(max(size - 2, 1), size + 3):
            after = (1, 1, 1)
            yield (
                f"{prompt} tokens, then one by one",
                CacheCase(window=window, chunks=(prompt, *after)),
            )
        yield "bursts after it is full", CacheCase(window=window, chunks=(size + 1, 2, 3, 2))
        yield "one long prompt", CacheCase(window=window, chunks=(3 * size,))
        yield "more heads than tokens", CacheCase(window=window, kv_heads=5, chunks=(2, 1))


def within_the_window(case: CacheCase) -> CacheCase:
    """The same tokens in chunks that are no longer than the window."""
    if case.window is None:
        return case
    parts = [
        min(case.window, count - start)
        for count in case.chunks
        for start in range(0, count, case.window)
    ]
    return replace(case, chunks=tuple(parts))
