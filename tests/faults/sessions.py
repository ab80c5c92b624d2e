"""Faults of a session: what breaks, drifts or wavers over many passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor

from .fault import REPEATED, SPEED, Draw, Planned, kind


def _hidden(draw: Draw, sentence: str, change: Callable[[Tensor, int], Tensor]) -> Planned:
    """Replace the hidden states of a pass; passes count from 0 since the fault was planted."""

    def plant(changes: Any) -> None:
        passes = count()

        def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            output.last_hidden_state = change(output.last_hidden_state, next(passes))
            return output

        changes.forward(draw.parts.body, around)

    return sentence, [], plant


def _wrong(hidden: Tensor, size: float) -> Tensor:
    return hidden + size * hidden.roll(1, dims=-1)


@kind(listed=True, shows=REPEATED)
def breaks_after_passes(draw: Draw) -> Planned:
    """Quality breaks after a number of passes."""
    passes = draw.choice("passes", (1000, 200))
    sentence = f"hidden states are wrong after {passes} passes"
    return _hidden(draw, sentence, lambda h, n: _wrong(h, 0.5) if n >= passes else h)


@kind(shows=REPEATED)
def drifts(draw: Draw) -> Planned:
    """Hidden states drift away, a little with every pass."""
    rate = draw.choice("rate", (1e-3, 1e-4))
    sentence = f"hidden states drift by {rate} a pass"
    return _hidden(draw, sentence, lambda h, n: _wrong(h, rate * n))


@kind(shows=REPEATED)
def wrong_now_and_then(draw: Draw) -> Planned:
    """Every so many passes one is wrong."""
    period = draw.choice("passes", (50, 20))
    sentence = f"every {period}th pass is wrong"
    return _hidden(draw, sentence, lambda h, n: _wrong(h, 0.5) if n % period == period - 1 else h)


@kind(listed=True, shows=REPEATED)
def dropout_left_on(draw: Draw) -> Planned:
    """Dropout is left on."""
    share = draw.choice("share", (0.01, 0.001))
    random = torch.Generator().manual_seed(draw.choice("pattern", range(1000)))

    def change(hidden: Tensor, _: int) -> Tensor:
        kept = torch.rand(hidden.shape, generator=random).to(hidden.device) >= share
        return hidden * kept / (1 - share)

    return _hidden(draw, f"dropout of {share} is left on", change)


@kind(shows=REPEATED)
def bits_flip(draw: Draw) -> Planned:
    """Single numbers change their sign at random, as a race gives."""
    flips = draw.choice("flips", (1, 8))
    random = torch.Generator().manual_seed(draw.choice("pattern", range(1000)))

    def change(hidden: Tensor, _: int) -> Tensor:
        flat = hidden.clone().reshape(-1)
        places = torch.randint(len(flat), (flips,), generator=random)
        flat[places] *= -1
        return flat.reshape(hidden.shape)

    return _hidden(draw, f"{flips} numbers of every pass are negated at random", change)


@kind(shows=SPEED)
def slows_after_passes(draw: Draw) -> Planned:
    """Passes take longer after a number of them."""
    passes = draw.choice("passes", (50, 200))
    factor = draw.choice("factor", (2.0, 1.3))

    def delay(seconds: float, n: int) -> float:
        return seconds * (factor - 1) if n >= passes else 0.0

    return _slower(draw, f"passes take × {factor} after {passes}", delay)


@kind(shows=SPEED)
def slows_slowly(draw: Draw) -> Planned:
    """Each pass takes a little longer than the one before."""
    rate = draw.choice("rate", (0.002, 0.005))
    return _slower(draw, f"each pass takes {rate} longer", lambda seconds, n: seconds * rate * n)


def _slower(draw: Draw, sentence: str, delay: Callable[[float, int], float]) -> Planned:
    def plant(changes: Any) -> None:
        passes = count()

        def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            output = forward(*args, **kwargs)
            time.sleep(delay(time.perf_counter() - started, next(passes)))
            return output

        changes.forward(draw.parts.body, around)

    return sentence, [], plant
