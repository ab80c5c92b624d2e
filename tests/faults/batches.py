"""Faults that let the rows of a batch see each other, or that one row alone has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .changes import Changes
from .fault import Draw, Planned, kind

_MLP = r"mlp|block_sparse_moe|feed_forward"


def _outputs(draw: Draw, sentence: str, change: Any) -> Planned:
    """Replace what one layer's MLP gives to a batch of two rows or more."""
    name, module = draw.module(_MLP)

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        rows = output[0] if isinstance(output, tuple) else output
        if rows.ndim != 3 or len(rows) < 2:
            return output
        changed = change(rows.clone())
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return f"{name}: {sentence}", [name], lambda changes: changes.forward(module, around)


@kind(listed=True, shows="batched")
def batch_leak(draw: Draw) -> Planned:
    """A share of the first row's MLP output is added to its neighbours in one layer."""
    share = draw.choice("share", (1 / 3, 1.0))

    def change(rows: Tensor) -> Tensor:
        rows[1:] += share * rows[:1]
        return rows

    return _outputs(draw, f"{share:.0%} of row 0 is added to the others", change)


@kind(listed=True, shows="batched")
def last_row_wrong(draw: Draw) -> Planned:
    """The last row of a batch gets a share of the first one's MLP output in one layer."""
    share = draw.choice("share", (1 / 3, 1.0))

    def change(rows: Tensor) -> Tensor:
        rows[-1] += share * rows[0]
        return rows

    return _outputs(draw, f"{share:.0%} of row 0 is added to the last", change)


@kind(shows="batched")
def middle_row_wrong(draw: Draw) -> Planned:
    """The middle row of a batch gets the MLP output of its neighbour in one layer."""

    def change(rows: Tensor) -> Tensor:
        rows[len(rows) // 2] = rows[len(rows) // 2 - 1]
        return rows

    return _outputs(draw, "the middle row is that of its neighbour", change)


@kind(shows="batched")
def scale_over_batch(draw: Draw) -> Planned:
    """The MLP output of one layer is rounded to a grid that the whole batch shares."""
    levels = draw.choice("levels", (31, 127))

    def change(rows: Tensor) -> Tensor:
        scale = rows.abs().amax() / levels
        return (rows / scale).round() * scale

    return _outputs(draw, f"one grid of {levels} levels for all rows", change)


@kind(shows="left padded")
def padded_row_wrong(draw: Draw) -> Planned:
    """Rows that are padded get a share of another row's MLP output in one layer."""
    share = draw.choice("share", (1 / 3, 1.0))
    name, module = draw.module(_MLP)
    padded: list[Tensor] = []

    def note(forward: Any, *args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("attention_mask")
        is_mask = mask is not None and mask.ndim == 2
        padded[:] = [~mask.bool().all(dim=1)] if is_mask else []
        return forward(*args, **kwargs)

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        rows = output[0] if isinstance(output, tuple) else output
        if not padded or rows.ndim != 3 or len(padded[0]) != len(rows):
            return output
        changed = rows + share * torch.where(padded[0][:, None, None], rows.roll(1, dims=0), 0)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def plant(changes: Changes) -> None:
        changes.forward(draw.parts.model, note)
        changes.forward(module, around)

    return f"{name}: {share:.0%} of a neighbour is added to padded rows", [name], plant
