"""The engine of transformers, as it is registered."""

from ..base import InProcessEngine, capabilities_of
from ..registry import EngineSpec

ENGINE = EngineSpec(
    name="transformers",
    summary="transformers in process, on CPU or CUDA",
    capabilities=capabilities_of(InProcessEngine),
    takes_kv_cache=True,
    load="pytest_infopt.engines.transformers.load:load_transformers",
)
