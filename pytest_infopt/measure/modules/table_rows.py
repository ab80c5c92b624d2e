"""Rows of embeddings and of the output head, one for each token: a text holds few of them.

Each embedding row is looked up in both models; each of the head's is a column of its outputs on the
reference's hidden states. A row's siblings are all other rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from .. import OUTPUT_FACTOR
from ..module_calls import called_like, first_tensor
from ..paired_modules import ModulePair
from .accusation import Accusation
from .envelope import envelope
from .leaves import Leaf

_CHUNK = 8192  # rows looked up at once
_DRAWN = 512  # rows whose errors make the envelope
_NAMED = 8  # rows that a message names

Decode = Callable[[Sequence[int]], str]


def is_table(module: nn.Module, vocabulary: int) -> bool:
    """Whether a module looks up a row for each of so many tokens, or more."""
    return isinstance(module, nn.Embedding) and module.num_embeddings >= vocabulary


@torch.no_grad()
def wrong_embeddings(
    pair: ModulePair, plain: nn.Module, dtype: torch.dtype, count: int, rate: float, decode: Decode
) -> Accusation | None:
    """An accusation of the embedding whose row for one of the first ``count`` tokens is off."""
    errors, costs = [], []
    for start in range(0, count, _CHUNK):
        device = next(pair.reference.parameters()).device
        ids = torch.arange(start, min(count, start + _CHUNK), device=device)
        exact = _looked_up(pair.reference.forward(ids))
        size = exact.norm(dim=-1).clamp(min=1e-30)
        ours = _looked_up(called_like(pair.candidate, (ids,), {}, dtype)).to(device)
        theirs = exact if plain is pair.reference else _looked_up(plain.forward(ids)).to(device)
        errors.append(((ours - exact).norm(dim=-1) / size).cpu())
        costs.append(((theirs - exact).norm(dim=-1) / size).cpu())
    unit = torch.full((count,), torch.finfo(dtype).eps)  # a sum in another order, say
    return _accusation(
        pair.name, torch.cat(errors), torch.maximum(torch.cat(costs), unit), rate, "row", decode
    )


def wrong_head_rows(leaf: Leaf, count: int, rate: float, decode: Decode) -> Accusation | None:
    """An accusation of the head, whose output for one of the first ``count`` tokens is off."""
    if leaf.errors.channels is None or leaf.cost.channels is None:
        return None
    # A row's cost by chance on these tokens is small; the head's as a whole is not.
    costs = leaf.cost.channels[:count]
    costs = costs.clamp(min=float(costs.square().mean().sqrt()))
    return _accusation(leaf.name, leaf.errors.channels[:count], costs, rate, "output", decode)


def _looked_up(output: Any) -> torch.Tensor:
    found = first_tensor(output)
    assert found is not None
    return found.float()


def _accusation(
    name: str, errors: torch.Tensor, costs: torch.Tensor, rate: float, what: str, decode: Decode
) -> Accusation | None:
    off = errors > OUTPUT_FACTOR * costs
    granted = OUTPUT_FACTOR * costs
    # Where most rows are rounded, so that the dtype is not what they cost, they are siblings.
    drawn = errors[off][:: max(1, int(off.sum()) // _DRAWN)]
    if int(off.sum()) > len(errors) // 2:
        found = envelope(drawn.double().log().tolist(), rate / len(errors))
        reach = max(math.log(OUTPUT_FACTOR), found.reach)
        granted = granted.clamp(min=math.exp(min(80.0, found.location + reach)))
    wrong = (~(errors <= granted)).nonzero().flatten()
    if not len(wrong):
        return None
    times = (errors / granted)[wrong]
    worst = wrong[times.argsort(descending=True)][:_NAMED].tolist()
    named = ", ".join(f"{token} ({decode([token])!r})" for token in worst)
    first = worst[0]
    return Accusation(
        name,
        f"the {what} of {len(wrong)} of {len(errors)} tokens is off: token {named}; that of "
        f"{first} by {float(errors[first]):.3g} of its size, at most {float(granted[first]):.3g}",
        float(times.max()),
        evidence={
            "figure": "rows",
            "rows": wrong[:1000].tolist(),
            "n": len(errors),
            "few_rows": 2 * len(wrong) < len(errors),
        },
    )
