"""The engine of servers, as it is registered."""

from ..base import Capability
from ..registry import EngineSpec

ENGINE = EngineSpec(
    name="openai",
    summary="a server that speaks OpenAI's API, such as vLLM's, SGLang's or llama.cpp's",
    capabilities=frozenset(
        {
            Capability.TOP_SCORES,
            Capability.GREEDY,
            Capability.COUNTS,
            Capability.STREAM,
            Capability.LOAD,
        }
    ),
    load="pytest_infopt.engines.openai.load:load_openai",
    served=True,
)
