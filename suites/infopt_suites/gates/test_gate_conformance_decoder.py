"""Conformance of each MakeDecoder that infopt.toml names under ``decoder``."""

import pytest

from infopt_suites.attention.decoder import DecoderSuite
from infopt_suites.attention.decoder_protocol import MakeDecoder
from infopt_suites.configured import Configured


class TestDecoder(Configured, DecoderSuite):
    @pytest.fixture
    def make_decoder(self) -> MakeDecoder:
        implementation: MakeDecoder = self.implementation
        return implementation
