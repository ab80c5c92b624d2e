"""Decoding: the logits pipeline, stop rules, plain and speculative generation, and a simulator."""

from .drafter import Drafter, ModelDrafter, PromptLookupDrafter
from .generation import generate
from .pass_costs import measure_costs
from .pipeline import LogitsPipeline
from .scorer import FunctionScorer, Scorer
from .simulator import (
    PassCosts,
    SimulatedDecoding,
    best_lookahead,
    expected_speed_up,
    expected_tokens,
    implied_acceptance,
    simulate,
)
from .speculative import DecodedRow, SpeculativeDecoder
from .statistics import SpeculativeStatistics
from .stopping import FinishReason, StoppingRules
from .tree import DraftTree, walk
from .verification import Drafts, verify

__all__ = [
    "DecodedRow",
    "DraftTree",
    "Drafter",
    "Drafts",
    "FinishReason",
    "FunctionScorer",
    "LogitsPipeline",
    "ModelDrafter",
    "PassCosts",
    "PromptLookupDrafter",
    "Scorer",
    "SimulatedDecoding",
    "SpeculativeDecoder",
    "SpeculativeStatistics",
    "StoppingRules",
    "best_lookahead",
    "expected_speed_up",
    "expected_tokens",
    "generate",
    "implied_acceptance",
    "measure_costs",
    "simulate",
    "verify",
    "walk",
]
