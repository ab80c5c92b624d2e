"""SpeculativeSuite kills faulty decoders by the property named for each, and spares sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from infopt_suites.decoding import SpeculativeSuite
from properties import claimed_tests, run_property
from speculative_decoders import AREA, DRAWN, MUTANTS, SOUND, SmallDecoder, SpeculativeMutant

FEWER_TOKENS = 18_000  # for sound decoders but the first, which gets all that the suite draws


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(
            mutant,
            id=f"{mutant.fault.__name__}-{mutant.broken}",
            marks=[pytest.mark.slow] if mutant.broken == DRAWN else [],
        )
        for mutant in MUTANTS
    ],
)
def test_a_faulty_decoder_is_killed(mutant: SpeculativeMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = {"capabilities": mutant.fault.capabilities}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(
            SpeculativeSuite, mutant.broken, attributes, make_speculative_decoder=mutant.fault
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        (decoder, name)
        for decoder in SOUND
        for name in claimed_tests(SpeculativeSuite, decoder.capabilities)
    ],
)
def test_a_sound_decoder_is_spared(decoder: Any, name: str, counted: Any) -> None:
    counted("sound", AREA)
    attributes = {"capabilities": decoder.capabilities}
    if decoder is not SmallDecoder:
        attributes["sampled_tokens"] = FEWER_TOKENS
    run_property(SpeculativeSuite, name, attributes, make_speculative_decoder=decoder)
