"""Input checks shared by the quantizers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
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


def unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error for a name that there is not, with the nearest that there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(f"no {what} {name!r}{hint} There are: {', '.join(known)}")
