"""The engine of ONNX Runtime, as it is registered."""

from ..base import Capability
from ..registry import EngineSpec

ENGINE = EngineSpec(
    name="onnxruntime",
    summary="ONNX files of decoders in ONNX Runtime, in process",
    capabilities=frozenset(
        {
            Capability.SCORES,
            Capability.TOP_SCORES,
            Capability.GREEDY,
            Capability.FULL_LOGITS,
            Capability.BATCHES,
            Capability.CACHE,
            Capability.KV_SIZE,
            Capability.STREAM,
            Capability.LOAD,
            Capability.MEMORY,
        }
    ),
    load="pytest_infopt.engines.onnx_runtime.load:load_onnx",
    width_when_loaded=True,
)
