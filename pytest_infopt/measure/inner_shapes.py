"""Whether shapes inside a model follow its tokens, as those of a router's experts do.

Two passes of as many tokens then are no passes of one shape: each expert is given other shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..engines.base import WholeLogitsEngine

_BY_OFFSETS = "grouped_mm"  # whose shares are numbers, not shapes


def shapes_follow_tokens(engine: WholeLogitsEngine, token_ids: Sequence[int]) -> bool:
    """Whether a pass over as many other tokens takes operations of other shapes in this process."""
    others = [(token + 1) % engine.vocabulary for token in token_ids]
    one, other = (_operations(partial(engine.full_logits, ids)) for ids in (token_ids, others))
    return one != other or any(_BY_OFFSETS in name for name, *_ in one)


def _operations(compute: Callable[[], object]) -> list[tuple[Any, ...]]:
    """Name and shapes of every operation, in order."""
    recording = _Recording()
    with recording:
        compute()
    return recording.operations


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
        self.operations.append((str(func), *shapes))
        return func(*args, **(kwargs or {}))
