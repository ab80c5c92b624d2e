"""DecoderSuite kills faulty decoders by the property named for each, and spares the sound ones."""

from __future__ import annotations

from typing import Any

import pytest
from decoders import AREA, MUTANTS, SOUND, DecoderMutant
from infopt_suites.attention import DecoderSuite
from infopt_suites.base import suite_tests
from properties import needs, run_property


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.fault.__name__}-{m.broken}")
def test_a_faulty_decoder_is_killed(mutant: DecoderMutant, counted: Any) -> None:
    counted("mutant", AREA)
    attributes = {"capabilities": mutant.fault.capabilities}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_property(DecoderSuite, mutant.broken, attributes, make_decoder=mutant.fault)


@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        (decoder, name)
        for decoder in SOUND
        for name in suite_tests(DecoderSuite)
        if needs(DecoderSuite, name) <= decoder.capabilities
    ],
)
def test_a_sound_decoder_is_spared(decoder: Any, name: str, counted: Any) -> None:
    counted("sound", AREA)
    attributes = {"capabilities": decoder.capabilities}
    run_property(DecoderSuite, name, attributes, make_decoder=decoder)
