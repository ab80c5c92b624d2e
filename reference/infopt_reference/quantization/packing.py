"""Bit packing: n codes of b bits in exactly ceil(n·b/8) bytes.

The bytes are one little-endian bit stream: code i holds bits i·b … i·b + b − 1, and bit j is bit
j % 8 of byte j // 8. Two 4-bit codes share a byte, the first in its low half; eight 3-bit codes
take three bytes, and a code may straddle two of them. Signed codes are stored in two's complement.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_PART = 1 << 20  # codes unpacked at a time, a multiple of 8: whole bytes at any width


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` codes take."""
    return -(-count * bits // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs codes (int8: signed, uint8: unsigned) of any shape, in row-major order: uint8 [bytes].

    Raises:
        ValueError: bits is not in 1…8, the dtype is another one, or a code needs more bits. Masking
            it silently would hide the bug that made it.
    """
    low, high = _code_range(bits, codes.dtype)
    flat = codes.reshape(-1)
    if flat.numel() and not low <= int(flat.min()) <= int(flat.max()) <= high:
        raise ValueError(
            f"codes {int(flat.min())}…{int(flat.max())} do not fit {bits} bits ({low}…{high})"
        )
    if bits == 8:
        return flat.view(torch.uint8).clone()
    codes_a_word, bytes_a_word, wide = _word(bits)
    fields = flat.view(torch.uint8) & ((1 << bits) - 1)
    words = functional.pad(fields, (0, -flat.numel() % codes_a_word)).view(wide)
    span = 1
    while span < codes_a_word:  # two fields of `span` codes become one of 2·span
        lower = _lower_halves(span, codes_a_word, bits)
        words = (words & lower) | (words >> span * (8 - bits) & lower << span * bits)
        span *= 2
    octets = words.view(torch.uint8).view(-1, codes_a_word)[:, :bytes_a_word]
    return octets.reshape(-1)[: packed_bytes(flat.numel(), bits)].clone()


def unpack(packed: Tensor, bits: int, count: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """The first ``count`` codes, as int8 (signed) or uint8 [count]. 8-bit codes share memory.

    Raises:
        ValueError: bits is not in 1…8, the dtype is another one, or the bytes are too few or many.
    """
    _code_range(bits, dtype)
    if packed.numel() != packed_bytes(count, bits):
        raise ValueError(
            f"{count} codes of {bits} bits take {packed_bytes(count, bits)} bytes, "
            f"not {packed.numel()}"
        )
    if bits == 8:
        return packed.view(dtype)
    fields = torch.empty(count, dtype=torch.uint8, device=packed.device)
    # In parts that stay in cache: spreading goes over the same words several times.
    for start in range(0, count, _PART):
        octets = packed[start * bits // 8 :][: _PART * bits // 8]
        part = fields[start : start + _PART]
        part.copy_(_spread(octets, bits)[: part.numel()])
    if dtype is torch.uint8:
        return fields
    sign = 1 << (bits - 1)
    return fields.bitwise_xor_(sign).view(torch.int8).sub_(sign)


def _spread(packed: Tensor, bits: int) -> Tensor:
    """One code a byte: in each step every field's upper half moves to where its bytes will be.

    A few operations on whole words; several times faster than one strided write for each code.
    """
    codes_a_word, bytes_a_word, wide = _word(bits)
    octets = functional.pad(packed, (0, -packed.numel() % bytes_a_word)).view(-1, bytes_a_word)
    words = torch.empty(octets.shape[0], dtype=wide, device=packed.device).copy_(octets[:, 0])
    for index in range(1, bytes_a_word):
        words |= octets[:, index].to(wide) << 8 * index
    span = codes_a_word
    while span > 1:
        span //= 2
        lower = _lower_halves(span, codes_a_word, bits)
        moved = (words << span * (8 - bits)).bitwise_and_(lower << 8 * span)
        words = words.bitwise_and_(lower).bitwise_or_(moved)
    return words.view(torch.uint8)  # torch runs on little-endian machines only


def _word(bits: int) -> tuple[int, int, torch.dtype]:
    """Codes and bytes after which the pattern repeats, and an integer with a byte for each code."""
    common = math.gcd(bits, 8)
    codes_a_word = 8 // common
    wide = {2: torch.int16, 4: torch.int32, 8: torch.int64}[codes_a_word]
    return codes_a_word, bits // common, wide


def _lower_halves(span: int, codes_a_word: int, bits: int) -> int:
    """Ones where ``span`` codes, the lower half of 2·span, lie in every 2·span bytes of a word."""
    field = (1 << span * bits) - 1
    return sum(field << 8 * start for start in range(0, codes_a_word, 2 * span))


def _code_range(bits: int, dtype: torch.dtype) -> tuple[int, int]:
    if not 1 <= bits <= 8:
        raise ValueError(f"bits is {bits}; codes have 1 to 8")
    if dtype is torch.int8:
        return -(1 << bits - 1), (1 << bits - 1) - 1
    if dtype is torch.uint8:
        return 0, (1 << bits) - 1
    raise ValueError(f"codes are {dtype}; give torch.int8 (signed) or torch.uint8 (unsigned)")
