"""Attention problems for the properties: all features at once, on shapes as small as show a fault.

Legend: B batch, T query length, S key length, H query heads, G kv heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from .protocol import AttentionSpec

SEED = 17
TILES = (1, 2, 3, 7, 16)  # keys at a time: none divides all lengths, and one holds all keys
MOST_TILES = 64  # of a problem, but for the longest: each takes as long as a small problem


@dataclass(frozen=True)
class AttentionCase:
    """A problem, from which its tensors are made."""

    spec: AttentionSpec = field(default_factory=AttentionSpec)
    kv_heads: int = 1
    repeats: int = 1
    queries: int = 1
    keys: int = 1
    head_dim: int = 4
    padding: tuple[int, ...] = (0,)
    rising: bool = False  # logits that grow along the keys, so that each tile has a new maximum

    def tensors(self, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, D], keys and values [B, G, S, D]; padded slots hold large numbers."""
        batch, heads = len(self.padding), self.kv_heads * self.repeats
        generator = torch.Generator().manual_seed(SEED)
        queries = torch.randn(batch, heads, self.queries, self.head_dim, generator=generator)
        keys, values = (
            torch.randn(batch, self.kv_heads, self.keys, self.head_dim, generator=generator)
            for _ in range(2)
        )
        if self.rising:
            queries[..., 0] = self.head_dim**0.5
            keys[..., 0] += torch.arange(self.keys)
        for row, count in enumerate(self.padding):
            keys[row, :, :count], values[row, :, :count] = 3.0, 100.0
        return (
            queries.to(device, dtype),
            keys.to(device, dtype),
            values.to(device, dtype),
        )

    def padding_on(self, device: str) -> Tensor | None:
        """Empty slots of each row [B], or None where no row has any."""
        return torch.tensor(self.padding, device=device) if any(self.padding) else None


@st.composite
def attention_cases(
    draw: st.DrawFn, offered: Collection[str], head_dims: Sequence[int]
) -> AttentionCase:
    """Problems with every feature that is offered, several at a time."""
    queries = draw(st.integers(1, 6))
    keys = queries + draw(st.integers(0, 6))
    kv_heads = draw(st.integers(1, 3))
    repeats = draw(st.integers(1, 3)) if "grouped" in offered else 1
    spec = AttentionSpec(
        causal=draw(st.booleans()) if "bidirectional" in offered else True,
        tile=draw(st.sampled_from([None, *TILES])) if "tiles" in offered else None,
    )
    # Windows and chunks say what a token sees before it; which of the future is not settled.
    if "window" in offered and spec.causal:
        spec = replace(spec, window=draw(st.none() | st.integers(1, keys + 1)))
    if "chunk" in offered and spec.causal and spec.window is None:
        spec = replace(spec, chunk=draw(st.none() | st.integers(1, keys + 1)))
    if "sinks" in offered:
        logits = st.sampled_from([-2.0, 0.0, 3.0])
        drawn = draw(st.lists(logits, min_size=kv_heads * repeats, max_size=kv_heads * repeats))
        spec = replace(spec, sinks=draw(st.sampled_from([None, tuple(drawn)])))
    most = keys if "left-padding" in offered else 0
    return AttentionCase(
        spec=spec,
        kv_heads=kv_heads,
        repeats=repeats,
        queries=queries,
        keys=keys,
        head_dim=draw(st.sampled_from(head_dims)),
        padding=tuple(draw(st.lists(st.integers(0, most), min_size=1, max_size=3))),
        rising=draw(st.booleans()),
    )


def attention_traps(
    offered: Collection[str], head_dim: int, boundaries: Sequence[int]
) -> Iterator[tuple[str, AttentionCase]]:
    """Named problems on which shipped kernels have failed, as far as they are offered."""
    several = AttentionCase(kv_heads=2, queries=3, keys=7, head_dim=head_dim, padding=(0, 0))
    yield from _one_token_traps(offered, several)
    yield from _boundary_traps(offered, several, boundaries)
    yield "several queries behind a cache", several
    yield "one query behind a cache", replace(several, queries=1)
    yield "as many queries as keys", replace(several, queries=7)
    yield "as many heads as keys", replace(several, kv_heads=7)
    if "grouped" in offered:
        yield "grouped heads", replace(several, repeats=3)
        yield "grouped heads, as many kv heads as keys", replace(several, kv_heads=7, repeats=2)
        yield "one kv head for all", replace(several, kv_heads=1, repeats=4)
    if "left-padding" in offered:
        yield "ragged rows", replace(several, padding=(0, 2, 5))
        yield "a row of padding alone", replace(several, padding=(0, 7))
    if "window" in offered:
        for window in (1, 3, 4, 6, 7, 8):
            yield f"window {window} of 7", replace(several, spec=AttentionSpec(window=window))
    if "chunk" in offered and "left-padding" in offered:
        padded = replace(several, queries=7, padding=(0, 1, 3))
        yield "chunks behind padding", replace(padded, spec=AttentionSpec(chunk=3))
    if "tiles" in offered:
        for tile in TILES:
            spec = AttentionSpec(tile=tile)
            long = replace(several, keys=17, rising=True, spec=spec)
            yield f"rising logits in tiles of {tile}", long
            if "sinks" in offered:
                sinks = replace(spec, sinks=(1.0, -1.0), window=4 if "window" in offered else None)
                yield f"a sink beside tiles of {tile}", replace(long, spec=sinks)


def _one_token_traps(
    offered: Collection[str], case: AttentionCase
) -> Iterator[tuple[str, AttentionCase]]:
    """One query with one key that it may see: each of the features at its least, and together."""
    one = replace(case, queries=1, keys=1)
    yield "one token", one
    if "left-padding" in offered:
        one = replace(one, keys=3, padding=(2, 0))
        yield "one token behind padding", one
    if "window" in offered:
        yield "one token in a window of one", replace(one, spec=AttentionSpec(window=1))
        several = replace(one, queries=3, keys=3)
        yield (
            "several queries, each with a window of one",
            replace(several, spec=AttentionSpec(window=1)),
        )
        if "sinks" in offered:
            sinks = replace(one.spec, window=1, sinks=(1.0, -1.0))
            yield "one token in a window of one, beside a sink", replace(one, spec=sinks)


def _boundary_traps(
    offered: Collection[str], case: AttentionCase, boundaries: Sequence[int]
) -> Iterator[tuple[str, AttentionCase]]:
    """As many keys as a kernel may handle at a time, one less and one more."""
    for boundary in boundaries:
        for keys in (boundary - 1, boundary, boundary + 1):
            long = replace(
                case, kv_heads=1, queries=2, keys=keys, padding=(0,), rising=keys % 2 > 0
            )
            yield f"{keys} keys", long
        prompt = replace(case, kv_heads=1, queries=boundary + 1, keys=boundary + 1, padding=(0,))
        yield f"a prompt of {boundary + 1} tokens", prompt
        if "left-padding" in offered:
            padded = replace(case, queries=1, keys=boundary + 1, padding=(boundary, 1))
            yield f"{boundary + 1} keys, all but one padded", padded
