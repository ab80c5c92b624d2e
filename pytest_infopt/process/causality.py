"""Whether a model predicts a text's next token from what precedes it alone, by its logits."""

from __future__ import annotations

import torch

from ..engines.base import WholeLogitsEngine
from ..engines.spread_ids import spread_ids
from ..errors import ModelLoadError

_TOKENS = 8


def check_causality(engine: WholeLogitsEngine) -> None:
    """Refuse an engine whose logits at most positions change with the last token.

    A model that looks at both sides changes them by some share of what the last position, whose
    token is another one, changes by. Rounding changes them, too, where other tokens make for other
    shapes inside, as in a mixture of experts: by some multiple of eps, more in deep models. A
    position counts as changed where it lies nearer to the first than to the second, as powers go.
    Single ones may: a router near a tie sends a token to another expert. Raises ModelLoadError.
    """
    count = min(_TOKENS, engine.context_window)
    ids = spread_ids(count, engine.vocabulary)
    other = [*ids[:-1], (ids[-1] + 1) % engine.vocabulary]
    before, after = (engine.full_logits(tokens).double() for tokens in (ids, other))
    changes = (after - before).abs().amax(-1)  # [T]
    eps = torch.finfo(getattr(torch, engine.dtype)).eps
    rounding = eps * before.abs().amax(-1)  # [T]
    changed = int((changes > (rounding * changes[-1]).sqrt())[:-1].sum())
    if 2 * changed > count - 1:
        raise ModelLoadError(
            f"model {engine.name!r}: the logits at {changed} of {count - 1} positions change with "
            f"the token behind them, so it is not causal; the gates compare "
            "causal language models; give one"
        )
