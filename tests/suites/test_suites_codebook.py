"""CodebookSuite accepts the reference's tables, and its 8-bit floats as torch defines them."""

from __future__ import annotations

import math

import pytest
import torch
from infopt_reference.quantization import CODEBOOKS, FP4, NF4, CodeBook
from infopt_reference.quantization.float8 import (
    E4M3FN,
    E5M2,
    Float8Format,
    decode_float8,
    encode_float8,
)
from infopt_suites.quantization import CodebookSuite


class Table:
    """A table of levels; numbers come scaled to ±1 already."""

    def __init__(self, book: CodeBook) -> None:
        self.book = book
        self.ones = torch.ones(1, 1)

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        return self.book.encode(values.double()[None], self.ones, None)[0]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.book.decode(codes[None], self.ones, None)[0]


class Float8:
    def __init__(self, form: Float8Format) -> None:
        self.form = form

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        finite = values.nan_to_num(nan=math.nan, posinf=1e30, neginf=-1e30)
        return encode_float8(finite, self.form)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return decode_float8(codes, self.form)


def torch_numbers(dtype: torch.dtype) -> tuple[float, ...]:
    return tuple(torch.arange(256, dtype=torch.uint8).view(dtype).float().tolist())


class TestNF4(CodebookSuite):
    capabilities = frozenset({"saturates"})
    levels = NF4.values
    ties = "down"

    @pytest.fixture
    def codebook(self) -> Table:
        return Table(CODEBOOKS["nf4"])


class TestFP4(CodebookSuite):
    capabilities = frozenset({"saturates"})
    levels = FP4.values
    ties = "down"

    @pytest.fixture
    def codebook(self) -> Table:
        return Table(CODEBOOKS["fp4"])


class TestE4M3FN(CodebookSuite):
    capabilities = frozenset({"saturates", "refuses-nan"})
    levels = torch_numbers(torch.float8_e4m3fn)
    ties = "even"

    @pytest.fixture
    def codebook(self) -> Float8:
        return Float8(E4M3FN)


class TestE5M2(CodebookSuite):
    capabilities = frozenset({"saturates", "refuses-nan"})
    levels = torch_numbers(torch.float8_e5m2)
    ties = "even"

    @pytest.fixture
    def codebook(self) -> Float8:
        return Float8(E5M2)
