"""The engines by name, ours and those of other packages: entry points of the group infopt.engines.

Knowing an engine imports neither torch nor the engine's library; loading a model with it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from ..naming import import_named, loaded
from ..release import ModelSource
from .base import Capability, Engine
from .formats import unknown

__all__ = ["EngineSpec", "engine_named", "engines", "load_engine"]

GROUP = "infopt.engines"


@dataclass(frozen=True)
class EngineSpec:
    """A kind of engine.

    ``capabilities`` are those that its engines have at best: a gate that requires others is not
    run. ``load`` names "module:function", which makes an `Engine` of a `ModelSource`. ``served``:
    its models are behind the server that the source names. ``reference_only``: a candidate that is
    made from the reference's model is not loaded by it.
    """

    name: str
    summary: str
    capabilities: frozenset[Capability]
    load: str
    served: bool = False
    reference_only: bool = False


def engines() -> Mapping[str, EngineSpec]:
    """Every registered engine by name."""
    return loaded(GROUP, EngineSpec)


def engine_named(name: str) -> EngineSpec:
    """The registered engine; ConfigurationError, with the nearest name, where none has it."""
    known = engines()
    if name not in known:
        raise unknown("engine", name, known)
    return known[name]


def load_engine(source: ModelSource) -> Engine:
    """The source's model, loaded by the source's engine.

    Raises ConfigurationError for what the source asks for and there is not, ModelLoadError for
    everything that is wrong with the model or a library.
    """
    load = cast(Callable[[ModelSource], Engine], import_named(engine_named(source.engine).load))
    return load(source)
