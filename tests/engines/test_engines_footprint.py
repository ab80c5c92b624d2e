"""Bytes counted by storage: tied, shared, hidden in subclasses, hung on parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from pytest_infopt.engines.transformers.footprint import (
    derived_buffers,
    storage_bytes,
    tensors_in,
    weight_tensors,
)


def test_views_and_ties_count_once() -> None:
    base = torch.zeros(10, 4)
    assert storage_bytes([base, base[2:], base.t(), base.view(-1)]) == base.nbytes
    assert storage_bytes([base[:1]]) == base.nbytes  # a view keeps all of it alive
    assert storage_bytes([base, torch.zeros(10, 4)]) == 2 * base.nbytes
    assert storage_bytes([torch.empty(1000, device="meta")]) == 0


def test_a_tensor_subclass_weighs_what_is_inside() -> None:
    inside = torch.zeros(6, dtype=torch.float32), torch.zeros(6, dtype=torch.float32)
    assert storage_bytes([TwoTensor(*inside)]) == sum(part.nbytes for part in inside)


def test_codes_and_scales_are_weights_and_derived_buffers_are_not() -> None:
    layer = nn.Module()
    layer.register_buffer("codes", torch.zeros(32, dtype=torch.uint8))
    layer.register_buffer("scales", torch.zeros(4, dtype=torch.float16))
    layer.register_buffer("inv_freq", torch.zeros(8), persistent=False)
    layer.register_parameter("bias", nn.Parameter(torch.zeros(3)))
    layer.scratch = [torch.zeros(5)]  # an attribute that is neither
    model = nn.Sequential(layer)
    assert storage_bytes(weight_tensors(model)) == 32 + 8 + 12 + 20
    assert storage_bytes(derived_buffers(model)) == 32


def test_tensors_hung_on_a_parameter_are_found() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.module = nn.Linear(1000, 1000)  # type: ignore[attr-defined]  # as bitsandbytes does
    parameter.CB = torch.zeros(7)  # type: ignore[attr-defined]
    assert sum(tensor.numel() for tensor in tensors_in(parameter)) == 2 + 7
