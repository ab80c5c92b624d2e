"""The engine of llama.cpp, as it is registered."""

from ..base import Capability
from ..registry import EngineSpec

ENGINE = EngineSpec(
    name="llama.cpp",
    summary="GGUF files in llama.cpp's own kernels, in process, on CPU",
    capabilities=frozenset(
        {
            Capability.SCORES,
            Capability.TOP_SCORES,
            Capability.GREEDY,
            Capability.FULL_LOGITS,
            Capability.BATCHES,
            Capability.CACHE,
            Capability.STREAM,
            Capability.LOAD,
            Capability.MEMORY,
        }
    ),
    load="pytest_infopt.engines.llama_cpp.load:load_llama_cpp",
    integer_activations=True,
)
