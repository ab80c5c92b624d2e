"""gptqmodel's packing of codes into words through PackingSuite."""

from __future__ import annotations

import pytest
import torch
from infopt_suites.quantization import PackingSuite
from torch import Tensor

model_dequant = pytest.importorskip(
    "gptqmodel.utils.model_dequant", reason="gptqmodel has to be compiled: make peers"
)


class Columns:
    """`pack_cols` and `unpack_cols`: one row of codes, as zero points are stored."""

    def pack(self, codes: Tensor, bits: int) -> Tensor:
        packed: Tensor = model_dequant.pack_cols(codes[None], bits, pack_dtype=torch.int32)
        return packed

    def unpack(self, packed: Tensor, bits: int, count: int, signed: bool) -> Tensor:
        unpacked: Tensor = model_dequant.unpack_cols(packed, bits)
        return unpacked[0, :count].to(torch.uint8)


class TestColumns(PackingSuite):
    capabilities = frozenset({"unchecked"})
    bits = (2, 3, 4, 8)
    signs = (False,)
    count_multiple = 32  # whole words of every width
    unit_bits = 32

    @pytest.fixture
    def packing(self) -> Columns:
        return Columns()
