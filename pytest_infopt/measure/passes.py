"""The passes that an engine's model really makes: proof of what was computed together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..engines.base import Capability, Engine, ModuleEngine, able


@contextmanager
def rows_of_passes(engine: Engine) -> Iterator[list[int]]:
    """Rows of each pass that an engine's model makes meanwhile; none where it is not at hand."""
    rows: list[int] = []
    if Capability.MODULES not in engine.capabilities:
        yield rows
        return
    embeddings = able(engine, ModuleEngine).module.get_input_embeddings()
    hook = embeddings.register_forward_pre_hook(
        lambda module, inputs: rows.append(len(inputs[0])) if inputs else None
    )
    try:
        yield rows
    finally:
        hook.remove()
