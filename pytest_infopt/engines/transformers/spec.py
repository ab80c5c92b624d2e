"""The engine of transformers, as it is registered."""

from ..base import Capability
from ..registry import EngineSpec

ENGINE = EngineSpec(
    name="transformers",
    summary="transformers in process, on CPU or CUDA",
    capabilities=frozenset(Capability),
    load="pytest_infopt.engines.transformers.load:load_transformers",
)
