"""Each capability has its protocol, and engines keep those that they claim."""

from __future__ import annotations

from typing import Protocol

import pytest
import torch
from second_engine import CAPABILITIES, BigramEngine
from tiny_models import make_model, make_tokenizer

from pytest_infopt.engines import base
from pytest_infopt.engines.base import (
    BatchEngine,
    Capability,
    HiddenStateEngine,
    InProcessEngine,
    ScoringEngine,
    StreamingEngine,
    WholeLogitsEngine,
    able,
    capabilities_of,
    lacking,
)
from pytest_infopt.engines.registry import engine_named
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import ConfigurationError

BIGRAM = BigramEngine("bigram", "to be or not to be")
OF_SERVERS = {Capability.COUNTS}
NOT_IN_PROCESS = OF_SERVERS | {Capability.RECORDED}
TINY = TransformersEngine("tiny", make_model("llama"), make_tokenizer(), dtype=torch.float32)


class Both(ScoringEngine, BatchEngine, Protocol):
    """An intersection, as a gate writes it."""


def members(protocol: type) -> set[str]:
    """What a protocol asks for, its bases' members included."""
    return {
        name
        for each in protocol.__mro__
        if each is not object and each.__module__ == base.__name__
        for name in [*vars(each), *vars(each).get("__annotations__", ())]
        if not name.startswith("_")
    }


def keeps(engine: object, protocol: type) -> bool:
    return all(name in dir(engine) for name in members(protocol))


def protocols() -> dict[Capability, type]:
    """By reflection: the protocol of one capability, or the one that builds on another's."""
    own = {}
    for each in vars(base).values():
        if isinstance(each, type) and each.__name__.endswith("Engine"):
            claimed = capabilities_of(each) - {Capability.SCORES} or capabilities_of(each)
            if len(claimed) == 1:
                own[next(iter(claimed))] = each
    return own


@pytest.mark.parametrize("capability", Capability)
def test_the_engine_keeps_every_protocol_and_the_small_one_just_its_own(
    capability: Capability,
) -> None:
    protocol = protocols()[capability]
    assert len(members(protocol)) > len(members(base.Engine))
    assert (capability in TINY.capabilities) is (capability not in NOT_IN_PROCESS)
    assert keeps(TINY, protocol) is (capability in TINY.capabilities)
    assert keeps(BIGRAM, protocol) is (capability in CAPABILITIES)


def test_what_every_engine_has() -> None:
    assert {"name", "fingerprint", "encode", "context_window", "close"} <= members(base.Engine)
    assert keeps(TINY, base.Engine)
    assert keeps(BIGRAM, base.Engine)


def test_the_spec_claims_what_its_engine_can() -> None:
    everything = frozenset(Capability) - NOT_IN_PROCESS
    assert engine_named("transformers").capabilities == TINY.capabilities == everything
    assert capabilities_of(InProcessEngine) == everything
    assert engine_named("openai").capabilities >= OF_SERVERS


def test_an_intersection_takes_the_capabilities_of_its_parts() -> None:
    assert capabilities_of(Both) == {Capability.SCORES, Capability.BATCHES}
    assert capabilities_of(HiddenStateEngine) == {Capability.SCORES, Capability.HIDDEN_STATES}
    assert capabilities_of(base.Engine) == frozenset()


def test_what_an_engine_lacks_is_said_in_words() -> None:
    assert able(TINY, Both) is TINY
    assert able(BIGRAM, StreamingEngine) is BIGRAM
    with pytest.raises(ConfigurationError, match=r"^engine 'bigram' lacks: full logits$"):
        able(BIGRAM, WholeLogitsEngine)
    required = capabilities_of(Both) | {Capability.MODULES}
    missing = lacking("bigram", BIGRAM.capabilities, required)
    assert missing == "engine 'bigram' lacks: batches, modules"
    assert lacking("tiny", TINY.capabilities, required) == ""
