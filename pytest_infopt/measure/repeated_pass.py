"""One pass over fixed tokens, made when an engine is new and again later, compared bit by bit.

The same engine, the same tokens, the same shapes: a sound engine gives the same bits, so there is
nothing to tolerate. What differs is drawn at random (dropout left on, a race) or has changed since
(an accumulating state, a cache that rots, a kernel chosen anew).

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..engines.base import Capability, Engine, ModuleEngine, WholeLogitsEngine, able
from ..engines.spread_ids import spread_ids
from .module_calls import tensors_by_place, watched

TEXT = (
    "The same words are read when a model is new, and again later: what it says of them must not "
    "have changed by a single bit."
)
_TOKENS = 24  # where the text has none


class RepeatedPass:
    """``first`` [T, V] are the logits of the engine's first pass over ``token_ids``, ``made`` when
    that was, in seconds of `time.perf_counter`. Raises what the engine's pass raises."""

    def __init__(self, engine: WholeLogitsEngine) -> None:
        self.token_ids = _tokens(engine)[: engine.context_window]
        self._engine = engine
        self.made = time.perf_counter()
        self.first = self.again()

    def again(self) -> torch.Tensor:
        """The logits of the same pass, made now, [T, V]."""
        return self._engine.full_logits(self.token_ids).clone()


def _tokens(engine: WholeLogitsEngine) -> list[int]:
    """The text's tokens; ids from all over the vocabulary where it knows none of the words: the
    unknown token's embedding may be zeros, of which every pass makes the same."""
    known = engine.encode(TEXT)
    if len(set(known)) > 1:
        return list(known)
    return spread_ids(_TOKENS, engine.vocabulary)


def differing_rows(one: torch.Tensor, other: torch.Tensor) -> list[int]:
    """Positions at which any bit of two logits [T, V] differs, but for the sign of zero."""
    return (one != other).any(-1).nonzero().flatten().tolist()


@dataclass(frozen=True)
class ModuleCall:
    """What a module was given, and what it made of it."""

    name: str
    given: list[torch.Tensor]
    made: list[torch.Tensor]


def calls_of_modules(engine: Engine, token_ids: Sequence[int]) -> list[ModuleCall]:
    """All calls of modules during one pass in the order in which they end; none where the engine
    has no modules at hand."""
    if Capability.MODULES not in engine.capabilities:
        return []
    calls: list[ModuleCall] = []

    def record(name: str, args: Any, keywords: Any, output: Any) -> None:
        calls.append(ModuleCall(name, _copies([args, keywords]), _copies(output)))

    with watched(dict(able(engine, ModuleEngine).module.named_modules()), record):
        able(engine, WholeLogitsEngine).full_logits(token_ids)
    return calls


def first_difference(calls: Sequence[ModuleCall], others: Sequence[ModuleCall]) -> str:
    """Where two passes over the same tokens part, as a phrase; "" where no call differs.

    A module that made something else of the same is named itself. One that was given something
    else, though nothing before it made it, is reached by a function between modules, such as
    attention's own: then the module around it is named.
    """
    for call, other in zip(calls, others, strict=False):
        if call.name != other.name:
            return f"at {call.name}, where the other pass computes {other.name}"
        if not _equal(call.given, other.given):
            return f"in {_around(call.name)}, before {call.name}"
        if not _equal(call.made, other.made):
            return f"in {call.name or 'the model itself'}"
    return ""


def _equal(ones: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    pairs = zip(ones, others, strict=False)
    return len(ones) == len(others) and all(torch.equal(one, other) for one, other in pairs)


def _around(name: str) -> str:
    return name.rpartition(".")[0] or "the model"


def _copies(value: Any) -> list[torch.Tensor]:
    return [tensor.detach().clone() for _, tensor in tensors_by_place(value)]
