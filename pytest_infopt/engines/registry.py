"""The engines by name, ours and those of other packages: entry points of the group infopt.engines.

Knowing an engine imports neither torch nor the engine's library; loading a model with it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from ..errors import ConfigurationError
from ..naming import import_named, loaded
from ..release import ModelSource
from .base import Capability, Engine
from .formats import unknown
from .kv_cache_formats import kept_with, kv_cache_format

__all__ = ["EngineSpec", "engine_named", "engines", "load_engine"]

GROUP = "infopt.engines"


@dataclass(frozen=True)
class EngineSpec:
    """A kind of engine.

    ``capabilities`` are those that its engines have at best: a gate that requires others is not
    run. ``load`` names "module:function", which makes an `Engine` of a `ModelSource`. ``served``:
    its models are behind the server that the source names. ``reference_only``: a candidate that is
    made from the reference's model is not loaded by it. ``integer_activations``: its
    kernels round activations to 8 bits, but for files of floats. ``takes_kv_cache``: its models'
    KV caches may be of another format. ``width_when_loaded``: its files are its own, and what their
    weights are kept as shows once they are loaded.
    """

    name: str
    summary: str
    capabilities: frozenset[Capability]
    load: str
    served: bool = False
    reference_only: bool = False
    integer_activations: bool = False
    takes_kv_cache: bool = False
    width_when_loaded: bool = False

    def refuses(self, source: ModelSource) -> str:
        """Why it does not take the source; "" where nothing is known against it."""
        if source.kv_cache is None or self.takes_kv_cache:
            return ""
        return f"engine {self.name!r} takes no kv_cache, and the release names {source.kv_cache!r}"

    def offers(self, source: ModelSource) -> frozenset[Capability]:
        """The capabilities that its engine of this source has at best."""
        if source.kv_cache is None or self.refuses(source):
            return self.capabilities
        return self.capabilities & kept_with(kv_cache_format(source.kv_cache))


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
    spec = engine_named(source.engine)
    if why := spec.refuses(source):
        raise ConfigurationError(f"model {source.name!r}: {why}")
    load = cast(Callable[[ModelSource], Engine], import_named(spec.load))
    return load(source)
