"""The engine of stored scores, as it is registered."""

from ..base import Capability
from ..registry import EngineSpec

ENGINE = EngineSpec(
    name="stored-scores",
    summary="a reference's scores from a folder that `infopt scores` wrote; no model is loaded",
    capabilities=frozenset({Capability.SCORES}),
    load="pytest_infopt.engines.stored.load:load_stored_scores",
    reference_only=True,
)
