"""Bit packing: identity, exact sizes, and a layout written out independently in Python integers."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from infopt_reference.quantization import pack, packed_bytes, unpack


def code_range(bits, dtype):
    if dtype is torch.int8:
        return range(-(2 ** (bits - 1)), 2 ** (bits - 1))
    return range(2**bits)


def stream_of(codes, bits):
    """The little-endian bit stream as one Python integer cut into bytes."""
    number = sum((code % 2**bits) << (bits * index) for index, code in enumerate(codes))
    return list(number.to_bytes(-(-len(codes) * bits // 8), "little"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_pair_of_codes_at_every_phase_survives(bits, dtype):
    # Every code beside every other one, and every start within a word: neighbours must not leak.
    sample = (
        code_range(bits, dtype) if bits <= 4 else list(code_range(bits, dtype))[:: 2**bits // 16]
    )
    pairs = list(itertools.chain(*itertools.product(sample, repeat=2)))
    for phase in range(8):
        codes = torch.tensor(pairs[phase:], dtype=dtype)
        assert torch.equal(unpack(pack(codes, bits), bits, codes.numel(), dtype), codes)


@settings(deadline=None)
@given(data=st.data(), bits=st.integers(1, 8), dtype=st.sampled_from([torch.uint8, torch.int8]))
def test_packing_is_the_bit_stream_and_unpacking_its_inverse(data, bits, dtype):
    allowed = code_range(bits, dtype)
    codes = data.draw(st.lists(st.integers(allowed[0], allowed[-1]), max_size=70))
    packed = pack(torch.tensor(codes, dtype=dtype), bits)
    assert packed.dtype is torch.uint8
    assert packed.tolist() == stream_of(codes, bits)
    restored = unpack(packed, bits, len(codes), dtype)
    assert restored.dtype is dtype
    assert restored.tolist() == codes


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_long_streams_have_no_seams(bits, dtype):
    # Unpacked in parts: the last one is short, and the code before a seam is not the one behind it.
    allowed = code_range(bits, dtype)
    count = 2 * (1 << 17) + 13
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(allowed[0], allowed[-1] + 1, (count,), generator=generator).to(dtype)
    assert torch.equal(unpack(pack(codes, bits), bits, count, dtype), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bytes_are_the_ceiling_of_the_bits(bits):
    for count in range(100):
        expected = (count * bits + 7) // 8
        assert packed_bytes(count, bits) == expected
        assert pack(torch.zeros(count, dtype=torch.uint8), bits).nbytes == expected


@pytest.mark.parametrize("bits", range(2, 9))
def test_layout_and_memory_of_the_input_do_not_matter(bits):
    codes = (torch.arange(15 * 7) % 2**bits).to(torch.uint8).view(15, 7)
    before = codes.clone()
    assert torch.equal(pack(codes.T, bits), pack(codes.T.contiguous(), bits))
    assert torch.equal(pack(codes[:, 2], bits), pack(codes[:, 2].clone(), bits))
    packed = pack(codes, bits)
    packed.fill_(0)
    assert torch.equal(codes, before)


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        (torch.tensor([0, 16], dtype=torch.uint8), 4, r"0…16 do not fit 4 bits \(0…15\)"),
        (torch.tensor([-9, 0], dtype=torch.int8), 4, r"-9…0 do not fit 4 bits \(-8…7\)"),
        (torch.tensor([8], dtype=torch.int8), 4, r"8…8 do not fit 4 bits \(-8…7\)"),
        (torch.tensor([0]), 4, "int64"),
        (torch.tensor([0], dtype=torch.uint8), 9, "bits is 9"),
        (torch.tensor([0], dtype=torch.uint8), 0, "bits is 0"),
    ],
)
def test_what_does_not_fit_is_refused(codes, bits, message):
    with pytest.raises(ValueError, match=message):
        pack(codes, bits)


@pytest.mark.parametrize("count", [7, 11])
def test_a_count_that_does_not_match_the_bytes_is_refused(count):
    packed = pack(torch.zeros(9, dtype=torch.uint8), 4)  # 5 bytes hold 9 or 10 codes
    with pytest.raises(
        ValueError, match=f"{count} codes of 4 bits take {(count + 1) // 2} bytes, not 5"
    ):
        unpack(packed, 4, count)
