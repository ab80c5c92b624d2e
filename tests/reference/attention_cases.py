"""What the tests of attention share: random tensors, and what rounding may do to attention."""

import math

import torch
from hypothesis import strategies as st

# (query heads, kv heads): multi-head, grouped, multi-query, and a group that is no power of two.
HEADS = [(4, 4), (4, 2), (4, 1), (6, 2)]


def normal(*shape, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def attention_inputs(
    seed, *, batch=2, queries=3, keys=5, heads=4, kv_heads=2, head_dim=8, dtype=torch.float64
):
    """Queries [B, H, T, D], keys and values [B, G, S, D]."""
    return (
        normal(batch, heads, queries, head_dim, seed=seed, dtype=dtype),
        normal(batch, kv_heads, keys, head_dim, seed=seed + 1, dtype=dtype),
        normal(batch, kv_heads, keys, head_dim, seed=seed + 2, dtype=dtype),
    )


def rounding_bound(queries, keys, values, dtype):
    """How far two computations of attention in ``dtype`` may lie apart, in any order of sums.

    A logit is off by (D + 2)·u·|q|·|k|/√D with u = eps/2, which moves a weight by twice that share;
    exp, the maximum, denominator and weighted sum add 2·S + 8 roundings; each of the two is so far
    from the exact output, at most max|v|.
    """
    head_dim, length = queries.shape[-1], keys.shape[2]
    if not queries.numel() or not values.numel():
        return 0.0
    largest = float(queries.norm(dim=-1).max() * keys.norm(dim=-1).max()) / math.sqrt(head_dim)
    roundings = 2 * (head_dim + 2) * largest + 2 * length + 8
    return torch.finfo(dtype).eps * roundings * float(values.abs().max())


@st.composite
def padded_rows(draw, max_batch=3, max_length=9):
    """An attention mask [B, S], padded on the left by another amount in every row."""
    batch, length = draw(st.integers(1, max_batch)), draw(st.integers(1, max_length))
    padding = draw(st.lists(st.integers(0, length), min_size=batch, max_size=batch))
    return torch.arange(length)[None] >= torch.tensor(padding)[:, None]
