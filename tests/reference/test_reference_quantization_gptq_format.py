"""The storage of GPTQ checkpoints, against a packer that sets one bit after the other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from infopt_reference.quantization import read_gptq_layer
from torch import Tensor


def words(stream: list[int]) -> list[int]:
    """A stream of bits as signed 32-bit words, the first bit lowest."""
    assert len(stream) % 32 == 0
    found = []
    for start in range(0, len(stream), 32):
        word = sum(bit << place for place, bit in enumerate(stream[start : start + 32]))
        found.append(word - (1 << 32) if word >> 31 else word)
    return found


def packed(rows: Tensor, bits: int) -> Tensor:
    """int32 [R, n·bits/32] of codes [R, n]."""
    streams = [[code >> b & 1 for code in row for b in range(bits)] for row in rows.tolist()]
    return torch.tensor([words(stream) for stream in streams], dtype=torch.int32)


def minus_one(qzeros: Tensor, bits: int) -> Tensor:
    """Version 1: one less in every field, by subtracting from whole words."""
    ones = sum(1 << place for place in range(0, 32, bits))
    values = (qzeros.long() - ones) % (1 << 32)
    return torch.where(values >> 31 == 1, values - (1 << 32), values).to(torch.int32)


def stored(
    codes: Tensor, zeros: Tensor, scales: Tensor, bits: int, version: int
) -> dict[str, Tensor]:
    """Tensors of a checkpoint from codes [N, K], zero points and scales [N, G]."""
    if version == 1 and bits == 3:
        qzeros = packed((zeros.T - 1) % 8, bits)
    else:
        qzeros = packed(zeros.T, bits)
        qzeros = minus_one(qzeros, bits) if version == 1 else qzeros
    return {
        "qweight": packed(codes, bits).T.contiguous(),
        "qzeros": qzeros,
        "scales": scales.T.contiguous(),
    }


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, int, int, int]:
    bits, version = draw(st.sampled_from([2, 3, 4, 8])), draw(st.sampled_from([1, 2]))
    rows, columns = 32 * draw(st.integers(1, 2)), 32 * draw(st.integers(1, 3))
    group_size = draw(st.sampled_from([-1, 16, 32, 40, 64]))
    groups = 1 if group_size == -1 else -(-columns // group_size)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    codes = torch.randint(1 << bits, (rows, columns), generator=generator)
    zeros = torch.randint(1 << bits, (rows, groups), generator=generator)
    scales = torch.rand(rows, groups, generator=generator).half()
    return codes, zeros, scales, bits, group_size, version


@given(layers())
def test_every_code_zero_point_and_scale_comes_back(
    layer: tuple[Tensor, Tensor, Tensor, int, int, int],
) -> None:
    codes, zeros, scales, bits, group_size, version = layer
    tensors = stored(codes, zeros, scales, bits, version)
    weight = read_gptq_layer(tensors, bits=bits, group_size=group_size, version=version)
    assert torch.equal(weight.unpacked_codes().long(), codes)
    assert weight.zero_points is not None
    assert torch.equal(weight.zero_points.long(), zeros)
    assert torch.equal(weight.scales, scales)
    size = codes.shape[1] if group_size == -1 else group_size
    group = torch.arange(codes.shape[1]) // size
    expected = (codes - zeros[:, group]).double() * scales[:, group].double()
    assert torch.equal(weight.dequantize(torch.float64), expected)


def example(**changes: Tensor) -> dict[str, Tensor]:
    zeros, scales = torch.full((32, 2), 8), torch.ones(32, 2).half()
    return stored(torch.zeros(32, 64, dtype=torch.long), zeros, scales, 4, 1) | changes


def test_g_idx_in_order_is_read_and_another_is_refused() -> None:
    order = torch.arange(64, dtype=torch.int32) // 32
    with_order = read_gptq_layer(example(g_idx=order), bits=4, group_size=32)
    without = read_gptq_layer(example(), bits=4, group_size=32)
    assert torch.equal(with_order.dequantize(), without.dequantize())
    with pytest.raises(ValueError, match="g_idx is not in order"):
        read_gptq_layer(example(g_idx=order.flip(0)), bits=4, group_size=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qzeros": torch.zeros(2, 5, dtype=torch.int32)}, r"qzeros is torch.int32 \(2, 5\)"),
        ({"qweight": torch.zeros(8, 32, dtype=torch.int64)}, "qweight is torch.int64"),
        ({"scales": torch.ones(3, 32)}, r"scales is torch.float32 \(3, 32\)"),
    ],
)
def test_tensors_that_contradict_each_other_are_named(
    changes: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_gptq_layer(example(**changes), bits=4, group_size=32)


@pytest.mark.parametrize("wrong", [{"bits": 5}, {"version": 3}, {"group_size": 0}])
def test_what_the_format_has_not_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="bits is one of"):
        read_gptq_layer(example(), **{"bits": 4, "group_size": 32, **wrong})
