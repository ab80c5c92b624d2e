"""Input checks shared by the quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def require_finite(values: Tensor, name: str) -> None:
    """Raises ValueError that names the first NaN or infinity and how many there are."""
    # Extremes show infinity, and NaN passes through to them; one pass in place of three.
    if not values.numel() or bool(torch.stack(torch.aminmax(values)).isfinite().all()):
        return
    bad = ~torch.isfinite(values)
    where = [int(index) for index in bad.nonzero()[0]]
    raise ValueError(
        f"{name}{where or ''} is {values[tuple(where)].item()} ({int(bad.sum())} of "
        f"{values.numel()} values are not finite); repair or skip this tensor"
    )


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Puts a layer's name before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
