"""The ways through a model on which faults show: logits of each, to see what a fault changes there.

Legend: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .fault import PLAIN, REPEATED

Route = Callable[[Any], Tensor]  # of a model: logits, or tokens
_LONG = 224  # beyond every position and every length of a cache that faults begin at
_PASSES = 60


def _ids(model: Any, rows: int, count: int) -> Tensor:
    """Ids [B, T] spread over the vocabulary by a stride prime to most sizes."""
    vocabulary = int(model.config.get_text_config(decoder=True).vocab_size)
    first = torch.arange(rows)[:, None] * 31 + 5
    return 3 + (first + torch.arange(count)[None] * 7919) % (vocabulary - 3)


def _plain(model: Any) -> Tensor:
    logits: Tensor = model(input_ids=_ids(model, 1, _LONG), use_cache=False).logits
    return logits


def _padded(model: Any, *, left: bool) -> Tensor:
    ids = _ids(model, 3, 24)
    mask = torch.ones_like(ids)
    empty = slice(0, 8) if left else slice(16, 24)
    mask[1:2, empty] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    logits: Tensor = output.logits[mask.bool()]
    return logits


def _batched(model: Any) -> Tensor:
    logits: Tensor = model(input_ids=_ids(model, 4, 24), use_cache=False).logits
    return logits


def _eager(model: Any) -> Tensor:
    with attention(model, "eager"):
        return _plain(model)


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Attention of another implementation."""
    own = model.config._attn_implementation
    try:
        model.set_attn_implementation(name)
        yield
    finally:
        model.set_attn_implementation(own)


def _through_cache(
    model: Any, ids: Tensor, sizes: list[int], *, crop: int = 0, padding: int = 0
) -> Tensor:
    """Logits of passes of so many tokens through one cache; ``crop`` tokens of it are taken back
    before the last pass. The second row begins with so much ``padding``."""
    mask = torch.ones_like(ids)
    mask[1:2, :padding] = 0
    counted = (mask.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    if crop and hasattr(cache, "activate_past_recording"):
        cache.activate_past_recording()  # else windows cannot take back what they forgot
    parts, done = [], 0
    for index, size in enumerate(sizes):
        if crop and index == len(sizes) - 1:
            cache.crop(-crop)
            done -= crop
        output = model(
            input_ids=ids[:, done : done + size],
            position_ids=counted[:, done : done + size],
            attention_mask=mask[:, : done + size] if padding else None,
            past_key_values=cache,
            use_cache=True,
        )
        parts.append(output.logits)
        done += size
    logits = torch.cat(parts, dim=1)
    return logits[mask[:, :done].bool()] if padding else logits


def _generated(model: Any) -> Tensor:
    ids = _ids(model, 1, 12)
    mask = torch.ones_like(ids)
    tokens: Tensor = model.generate(
        ids, attention_mask=mask, max_new_tokens=5, min_new_tokens=5, do_sample=False
    )
    return tokens


def _repeated(model: Any) -> Tensor:
    ids = _ids(model, 1, 8)
    return torch.stack([model(input_ids=ids, use_cache=False).logits for _ in range(_PASSES)])


ROUTES: Mapping[str, Route] = {
    PLAIN: _plain,
    "left padded": lambda model: _padded(model, left=True),
    "right padded": lambda model: _padded(model, left=False),
    "batched": _batched,
    "eager": _eager,
    "cached": lambda model: _through_cache(model, _ids(model, 1, _LONG), [140, *[1] * 12]),
    "cached batch": lambda model: _through_cache(
        model, _ids(model, 3, 24), [16, *[1] * 8], padding=6
    ),
    "chunked": lambda model: _through_cache(model, _ids(model, 1, 48), [16, 16, 16]),
    "cropped": lambda model: _through_cache(model, _ids(model, 1, 48), [20, 4, 8], crop=2),
    "last position": lambda m: m(input_ids=_ids(m, 1, 24), logits_to_keep=1).logits,
    "last positions": lambda m: m(input_ids=_ids(m, 1, 24), logits_to_keep=4).logits,
    "generated": _generated,
    REPEATED: _repeated,
}


@torch.no_grad()
def along(route: str, model: Any) -> Tensor:
    """What the model gives on a route, in float32."""
    return ROUTES[route](model).float()


def difference(one: Tensor, other: Tensor) -> float:
    """RMS difference of what a softmax sees of two models' logits, or of two runs of tokens."""
    if one.shape[-1] > 1 and one.is_floating_point():
        one, other = (x - x.mean(-1, keepdim=True) for x in (one, other))
    return float((one - other).square().mean().sqrt())
