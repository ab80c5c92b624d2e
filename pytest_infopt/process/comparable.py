"""Whether reference and candidate can be compared, and on which part of their vocabularies."""

from __future__ import annotations

import math

from ..engines.base import Capability, Engine, ModuleEngine, WholeLogitsEngine, able
from ..errors import InvalidComparisonError
from .causality import check_causality


def make_comparable(reference: Engine, candidate: Engine) -> list[str]:
    """Notes on what is left out of the comparison.

    A vocabulary that is padded to a round size has entries that no text can hold; both models are
    then compared on those that both have. Raises InvalidComparisonError on another tokenizer, and
    on a vocabulary that lacks some of the tokenizer's tokens; ModelLoadError where the reference is
    not causal.
    """
    if Capability.FULL_LOGITS in reference.capabilities:
        check_causality(able(reference, WholeLogitsEngine))
    sizes = {engine.name: engine.vocabulary for engine in (reference, candidate)}
    same_tokenizer = reference.tokenizer_fingerprint == candidate.tokenizer_fingerprint
    common = min(reference.vocabulary, candidate.vocabulary)
    padded = reference.vocabulary != candidate.vocabulary
    if padded and not (same_tokenizer and _tokens(reference) <= common):
        raise InvalidComparisonError(
            f"vocabulary: reference {reference.name!r} has {reference.vocabulary} entries, "
            f"candidate {candidate.name!r} {candidate.vocabulary}, and not all of the tokenizer's "
            "tokens are in both; their distributions cannot be compared. Gate a candidate made "
            "from this reference"
        )
    if not same_tokenizer:
        raise InvalidComparisonError(
            f"tokenizer: reference {reference.name!r} "
            f"({reference.tokenizer_fingerprint[:12]}) and candidate {candidate.name!r} "
            f"({candidate.tokenizer_fingerprint[:12]}) map text to ids differently; copy the "
            f"reference's tokenizer files into the candidate's directory"
        )
    if not padded:
        return []
    for engine in (reference, candidate):
        keep_vocabulary(engine, common)
    listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
    return [
        f"compared on the first {common} entries of the vocabularies ({listed}): no text holds "
        "the others"
    ]


def keep_vocabulary(engine: Engine, count: int) -> None:
    """Cut an engine's logits to the first ``count`` entries; nothing where it has no more, or gives
    no logits."""
    if engine.vocabulary > count and Capability.SCORES in engine.capabilities:
        able(engine, ModuleEngine).keep_vocabulary(count)


def _tokens(engine: Engine) -> float:
    """How many ids the tokenizer may give, one more than its highest; infinite where an engine
    keeps its tokenizer to itself."""
    if Capability.MODULES not in engine.capabilities:
        return math.inf
    ids = able(engine, ModuleEngine).tokenizer.get_vocab().values()
    return max(ids, default=-1) + 1
