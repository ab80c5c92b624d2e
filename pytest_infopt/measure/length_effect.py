"""What the length of a plain pass changes: logits that no later token may move.

Where a model makes discrete choices (experts of a router, keys of sparse attention), rounding
decides near-ties, and rounding follows shapes. Such a model differs from itself in plain passes,
without any cache or padding, by far more than its dtype's error, at positions that nobody chose.

Legend: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ..engines.base import WholeLogitsEngine
from .dtype_error import (
    OUTPUT_FACTOR,
    DtypeError,
    dtype_error_of,
    dtype_named,
    host_logits,
    logit_error,
    rms,
    row_rms,
)

_PARTS = 4  # of a prompt: its first quarter, half, three quarters, and all but one token


@dataclass(frozen=True)
class Difference:
    """How far an engine's logits are from those of its own plain pass."""

    ratio: float = 0.0  # RMS over the rows / (2 · dtype error of the worst position)
    largest: float = 0.0  # of a single logit
    rows: tuple[float, ...] = ()  # RMS of each row

    @property
    def is_rounding(self) -> bool:
        """Whether it is no more than two runs in the dtype may differ by."""
        return self.ratio <= OUTPUT_FACTOR


NONE = Difference()


def difference_of(logits: torch.Tensor, exact: torch.Tensor, dtype_error: DtypeError) -> Difference:
    """Of logits [T, V] from those of the plain pass."""
    error = logit_error(logits, exact)
    rows = tuple(row_rms(error).tolist())
    return Difference(rms(error) / (2 * dtype_error.worst), float(error.abs().max()), rows)


def worst(differences: Iterable[Difference]) -> Difference:
    """The largest of each number, and the rows of all."""
    known = [NONE, *differences]
    rows = tuple(row for each in known for row in each.rows)
    return Difference(max(d.ratio for d in known), max(d.largest for d in known), rows)


def length_effect(
    engine: WholeLogitsEngine,
    prompts: Sequence[Sequence[int]],
    oracle: Sequence[torch.Tensor],
    plain: Sequence[torch.Tensor],
) -> Difference:
    """The worst of plain passes of the prompts' beginnings against the whole prompts' rows.

    ``oracle`` and ``plain`` have the logits [T, V] of each prompt by these weights in the widest
    dtype and in the engine's. Prompts whose dtype error is not known are left out.
    """
    found = []
    for ids, exact, whole in zip(prompts, oracle, plain, strict=True):
        dtype_error = dtype_error_of(exact, whole, dtype_named(engine.dtype))
        if not dtype_error.usable:
            continue
        rows = host_logits(engine.full_logits(ids))
        for count in _beginnings(len(ids)):
            begun = host_logits(engine.full_logits(ids[:count]))
            found.append(difference_of(begun, rows[:count], dtype_error))
    return worst(found)


def _beginnings(count: int) -> list[int]:
    """Lengths below ``count``."""
    parts = {count * part // _PARTS for part in range(1, _PARTS)} | {count - 1}
    return sorted(length for length in parts if 0 < length < count)
