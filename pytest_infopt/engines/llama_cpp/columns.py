"""What a pass of llama.cpp computes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A token of a pass: its sequence and position there, and whether its logits are wanted."""

    token: int
    position: int
    sequence: int = 0
    wanted: bool = True
