"""Speed of the reference quantizers against torchao (int4) and bitsandbytes (NF4), on one thread.

Run as a script; prints ratios of one run. Ours and the peer's rounds alternate, so that a machine
that slows down slows both; the ratio is the median over the pairs, with its quartiles. Below 1 ours
is the faster. What each side does is not the same to the last byte: torchao computes float32 scales
and leaves one code a byte; ours checks for NaN, rounds scales to float16 and packs codes in pairs.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from infopt_reference.quantization import preset, quantize

SIZE, ROUNDS = 4096, 15
LIMIT = 2.0  # ours may take that many times the peer's time
Work = Callable[[], Any]


def torchao_int4(weight: torch.Tensor) -> tuple[Work, Work]:
    """Quantize and dequantize in zero-point int4, groups of 128."""
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    block, lowest, highest = (1, 128), 0, 15

    def quantized() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scales, zero_points = choose_qparams_affine(
            weight, MappingType.ASYMMETRIC, block, torch.uint8, lowest, highest
        )
        codes = quantize_affine(weight, block, scales, zero_points, torch.uint8, lowest, highest)
        return codes, scales, zero_points

    codes, scales, zero_points = quantized()
    return quantized, lambda: dequantize_affine(
        codes, block, scales, zero_points, torch.uint8, lowest, highest
    )


def bitsandbytes_nf4(weight: torch.Tensor) -> tuple[Work, Work]:
    """Quantize and dequantize in NF4, blocks of 64."""
    import bitsandbytes.functional as peer

    quantized = functools.partial(peer.quantize_4bit, weight, blocksize=64, quant_type="nf4")
    packed, state = quantized()
    return quantized, lambda: peer.dequantize_4bit(packed, state)


def seconds(work: Work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(label: str, ours: Work, peer: Work) -> None:
    ours(), peer()  # the first calls compile, load and allocate
    pairs = [(seconds(ours), seconds(peer)) for _ in range(ROUNDS)]
    low, ratio, high = statistics.quantiles([mine / theirs for mine, theirs in pairs], n=4)
    mine, theirs = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    print(
        f"  {label:<38} ours {mine:6.1f} ms, peer {theirs:6.1f} ms: "
        f"ratio {ratio:.2f} ({low:.2f} to {high:.2f}), limit {LIMIT}"
    )


def main() -> None:
    torch.set_num_threads(1)
    # Both look for kernels of GPUs, and say so.
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    weight = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    print(f"{SIZE} x {SIZE} float32, 1 thread, {ROUNDS} pairs of rounds")
    rows = [
        ("int4, groups of 128", "torchao", preset("int4", group_size=128), torchao_int4),
        ("nf4, groups of 64", "bitsandbytes", preset("nf4"), bitsandbytes_nf4),
    ]
    for name, peer, scheme, prepare in rows:
        try:
            version = importlib.metadata.version(peer)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} against {peer}: not installed")
            continue
        print(f"{name} against {peer} {version}")
        encode, decode = prepare(weight)
        compare("quantize", functools.partial(quantize, weight, scheme), encode)
        compare("dequantize", quantize(weight, scheme).dequantize, decode)


if __name__ == "__main__":
    main()
