"""PackingSuite accepts the reference's bit stream."""

from __future__ import annotations

import pytest
import torch
from infopt_reference.quantization import pack, unpack
from infopt_suites.quantization import PackingSuite


class Reference:
    def pack(self, codes: torch.Tensor, bits: int) -> torch.Tensor:
        return pack(codes, bits)

    def unpack(self, packed: torch.Tensor, bits: int, count: int, signed: bool) -> torch.Tensor:
        return unpack(packed, bits, count, torch.int8 if signed else torch.uint8)


class TestReference(PackingSuite):
    capabilities = frozenset({"refuses-overflow"})
    bits = tuple(range(1, 9))
    bit_order = "low-first"

    @pytest.fixture
    def packing(self) -> Reference:
        return Reference()
