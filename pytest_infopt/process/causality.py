"""Whether a model predicts a text's next token from what precedes it alone, by its logits."""

from __future__ import annotations

import torch

from ..engines.base import WholeLogitsEngine
from ..errors import ModelLoadError

_TOKENS = 8
_ULPS = 2  # what rounding in another order may move a logit by


def check_causality(engine: WholeLogitsEngine) -> None:
    """Refuse an engine whose logits at every position change with the last token.

    Rounding alone changes single positions where other tokens make for other shapes inside, as in a
    mixture of experts; a model that looks at both sides changes all of them. Raises ModelLoadError.
    """
    count = min(_TOKENS, engine.context_window)
    ids = [(7919 * index + 1) % engine.vocabulary for index in range(count)]
    other = [*ids[:-1], (ids[-1] + 1) % engine.vocabulary]
    before, after = (engine.full_logits(tokens)[:-1].double() for tokens in (ids, other))
    eps = torch.finfo(getattr(torch, engine.dtype)).eps
    rounding = eps * before.abs().amax(-1)  # [T − 1] of the largest logit of each position
    changed = (after - before).abs().amax(-1) > _ULPS * rounding
    if count > 1 and bool(changed.all()):
        raise ModelLoadError(
            f"model {engine.name!r}: the logits at each of {count - 1} positions change with the "
            f"token behind them, so it is not causal; the gates compare "
            "causal language models; give one"
        )
