"""From what a caller names to the side that it is."""

from __future__ import annotations

from typing import cast

from ..engines.base import Engine
from ..release import ServerSource
from .engine_side import compiled_setting, engine_side
from .served_side import served_side
from .sides import Side, Sided


def side_of(asked: Sided, new_tokens: int) -> Side:
    """The side that an engine, an address or a function is; ``new_tokens`` are generated where it
    generates. Raises TypeError for anything else."""
    if isinstance(asked, Side):
        return asked
    if isinstance(asked, (str, ServerSource)):
        return served_side(asked, new_tokens)
    if hasattr(asked, "capabilities"):
        return engine_side(cast(Engine, asked), new_tokens)
    if not callable(asked):
        raise TypeError(
            f"{asked!r:.80} is no side; give an engine, a server's address, a function of token "
            "ids, or a pytest_infopt.Side"
        )
    return Side(asked, settings=compiled_setting([asked]))
