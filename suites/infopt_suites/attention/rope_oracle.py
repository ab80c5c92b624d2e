"""Rotary embedding as its definition says, in complex numbers, and what rounding may make of it.

Written from the papers that `rope_protocol` names; each scaling is a function of its own.
Legend: B batch, T tokens, H heads, D head dim, R rotated dimensions.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from .rope_protocol import Dynamic, Linear, Llama3, LongRope, Proportional, RopeSpec, Yarn


def frequencies(spec: RopeSpec, length: int) -> list[float]:
    """Radians a position of each pair, for a sequence of ``length`` tokens."""
    scaling, pairs = spec.scaling, range(spec.rotary_dim // 2)
    base = spec.base
    if isinstance(scaling, Dynamic) and length > scaling.trained_length:
        share = length / scaling.trained_length
        stretch = scaling.factor * share - scaling.factor + 1
        base *= stretch ** (spec.rotary_dim / (spec.rotary_dim - 2))
    plain = [base ** (-2 * pair / spec.rotary_dim) for pair in pairs]
    match scaling:
        case Linear():
            return [f / scaling.factor for f in plain]
        case LongRope():
            factors = scaling.long if length > scaling.trained_length else scaling.short
            return [f / factor for f, factor in zip(plain, factors, strict=True)]
        case Proportional():
            turning = int(scaling.share * len(plain))
            return [f / scaling.factor * (pair < turning) for pair, f in enumerate(plain)]
        case Yarn() | Llama3():
            shares = zip(plain, _kept(spec, scaling, plain), strict=True)
            return [f * share + f / scaling.factor * (1 - share) for f, share in shares]
    return plain


def attention_factor(spec: RopeSpec) -> float:
    """By which queries and keys are multiplied beside being turned."""
    match spec.scaling:
        case Yarn(attention_factor=float(factor)):
            return factor
        case Yarn(factor=factor):
            return 0.1 * math.log(factor) + 1
        case LongRope(factor=factor, trained_length=trained):
            return math.sqrt(1 + math.log(factor) / math.log(trained))
    return 1.0


def angles(spec: RopeSpec, positions: Tensor, length: int) -> Tensor:
    """Radians, float64 [B, T, R/2], of positions [B, T] or [3, B, T]."""
    of_pairs = torch.tensor(frequencies(spec, length), dtype=torch.float64, device=spec.device)
    if spec.sections is None:
        return positions[..., None] * of_pairs
    return torch.stack([positions[axis] for axis in axes(spec)], dim=-1) * of_pairs


def axes(spec: RopeSpec) -> list[int]:
    """The axis of positions by which each pair turns."""
    assert spec.sections is not None
    if not spec.interleaved:
        ends = [0, spec.sections[0], sum(spec.sections[:2]), sum(spec.sections)]
        return [axis for axis, (a, b) in enumerate(pairwise(ends)) for _ in range(a, b)]
    chosen = [0] * sum(spec.sections)
    for axis in (1, 2):
        for turn in range(spec.sections[axis]):
            chosen[3 * turn + axis] = axis
    return chosen


def pairs_of(heads: Tensor, spec: RopeSpec, pairing: str | None = None) -> Tensor:
    """The rotated dimensions [B, H, T, D] as complex numbers [B, H, T, R/2], one a pair."""
    turned = heads[..., : spec.rotary_dim].double()
    if (pairing or spec.pairing) == "neighbours":
        return torch.complex(turned[..., 0::2], turned[..., 1::2])
    half = spec.rotary_dim // 2
    return torch.complex(turned[..., :half], turned[..., half:])


def angle_error(spec: RopeSpec, dtype: torch.dtype) -> float:
    """How far, relative to itself, an angle that is computed in ``dtype`` may be off.

    Rounding the exponent moves base^exponent by ln(base)·eps; eight operations more come to less
    than 16·eps. Where a share of f is mixed with the rest of f / factor, and the share itself is a
    difference, its error counts up to factor · high / (high − low) times.
    """
    amplified = 1.0
    if isinstance(spec.scaling, Yarn):
        amplified += spec.scaling.factor
    elif isinstance(spec.scaling, Llama3):
        width = spec.scaling.high - spec.scaling.low
        amplified += spec.scaling.factor * spec.scaling.high / width
    return torch.finfo(dtype).eps * (math.log(spec.base) + 16) * amplified


def _kept(spec: RopeSpec, scaling: Yarn | Llama3, plain: list[float]) -> list[float]:
    """The share of f that each pair keeps."""
    if isinstance(scaling, Llama3):
        width = scaling.high - scaling.low
        turns = [scaling.trained_length * f / (2 * math.pi) for f in plain]
        return [min(max((n - scaling.low) / width, 0), 1) for n in turns]

    def pair_that_turns(turns: float) -> float:
        radians = 2 * math.pi * turns / scaling.trained_length
        return -spec.rotary_dim / 2 * math.log(radians, spec.base)

    first, last = (pair_that_turns(n) for n in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, spec.rotary_dim - 1)
    last += 0.001 * (first == last)  # a ramp of no width is a step
    pairs = range(len(plain))
    return [1 - min(max((pair - first) / (last - first), 0), 1) for pair in pairs]
