"""Several tests, one declared error rate (Holm 1979, "A simple sequentially rejective multiple test
procedure"). It needs no independence, and with anytime-valid p-values it holds at any stopping
time; such p-values only fall, so that what was rejected once stays rejected."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def holm(p_values: Mapping[Name, float], alpha: float) -> set[Name]:
    """The hypotheses to reject so that P(any of them true) ≤ ``alpha``.

    Sorted upwards, the i-th p-value (from 0) is compared with alpha / (number − i); the first that
    is larger stops the procedure. Raises ValueError for an alpha that is no probability.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha {alpha!r}: an error rate lies between 0 and 1")
    rejected: set[Name] = set()
    for name in sorted(p_values, key=lambda key: p_values[key]):
        if p_values[name] > alpha / (len(p_values) - len(rejected)):
            break
        rejected.add(name)
    return rejected
