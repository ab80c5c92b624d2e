"""Granularity as a reshape: weights that share a scale become one row.

Legend: R groups, n weights of a group, C channels, K length of the last axis, G groups along it.
PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from .scheme import Granularity, QuantizationScheme

CACHED_ELEMENTS = 1 << 20  # 8 MiB of float64; less costs more in calls than it saves in traffic


def to_rows(values: Tensor, scheme: QuantizationScheme) -> Tensor:
    """Weights, or codes, of any rank as rows [R, n], one row per group.

    A short last group is filled up with 0, which changes no group's absmax, and no range, since
    every range contains 0.
    """
    if scheme.granularity is Granularity.TENSOR:
        return values.reshape(1, -1)
    if scheme.granularity is Granularity.CHANNEL:
        return values.movedim(scheme.axis, 0).reshape(values.shape[scheme.axis], -1)
    padding = -values.shape[-1] % _group_size(scheme)
    if padding:
        values = functional.pad(values, (0, padding))
    return values.reshape(-1, _group_size(scheme))


def from_rows(rows: Tensor, shape: torch.Size, scheme: QuantizationScheme) -> Tensor:
    """The inverse of `to_rows`: rows [R, n] back in the weights' shape, filling removed."""
    if scheme.granularity is Granularity.TENSOR:
        return rows.reshape(shape)
    if scheme.granularity is Granularity.CHANNEL:
        channels, others = shape[scheme.axis], list(shape)
        del others[scheme.axis]
        return rows.reshape(channels, *others).movedim(0, scheme.axis)
    whole = group_count(shape[-1], scheme) * _group_size(scheme)
    return rows.reshape(*shape[:-1], whole)[..., : shape[-1]]


def scale_shape(shape: torch.Size, scheme: QuantizationScheme) -> torch.Size:
    """Shape of scales and zero points: () per tensor, (C,) per channel, (…, G) per group.

    Raises:
        ValueError: the weights have no such axis.
    """
    if scheme.granularity is Granularity.TENSOR:
        return torch.Size()
    if scheme.granularity is Granularity.CHANNEL:
        if not -len(shape) <= scheme.axis < len(shape):
            raise ValueError(
                f"axis {scheme.axis} does not exist in weights of shape {tuple(shape)}"
            )
        return torch.Size([shape[scheme.axis]])
    if not shape:
        raise ValueError("groups lie along the last axis, and a scalar weight has none")
    return torch.Size([*shape[:-1], group_count(shape[-1], scheme)])


def group_count(length: int, scheme: QuantizationScheme) -> int:
    """Groups along an axis of this length, the short last one included."""
    return math.ceil(length / _group_size(scheme))


def cache_blocks(shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Cuts rows [R, n] into blocks, as slices of both axes, of at most `CACHED_ELEMENTS`."""
    groups, elements = shape
    height = max(1, CACHED_ELEMENTS // elements)
    for top in range(0, groups, height):
        for left in range(0, elements, CACHED_ELEMENTS):
            yield slice(top, top + height), slice(left, left + CACHED_ELEMENTS)


def _group_size(scheme: QuantizationScheme) -> int:
    assert scheme.group_size is not None
    return scheme.group_size
