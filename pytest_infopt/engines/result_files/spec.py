"""The engine of recorded results, as it is registered."""

from ..base import Capability
from ..registry import EngineSpec

ENGINE = EngineSpec(
    name="recorded-results",
    summary="times and answers from result files of vLLM, SGLang, GuideLLM, AIPerf, lm-eval and "
    "Inspect; no model is loaded",
    capabilities=frozenset({Capability.RECORDED}),
    load="pytest_infopt.engines.result_files.load:load_recorded",
)
