"""What a module's weights are kept as: modules of one kind and one storage are siblings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ...engines.transformers.footprint import storage_bytes, weight_tensors

_BLOCK = 32  # weights in which distinct values are counted; no common format has smaller blocks
_BLOCKS = 512


@dataclass(frozen=True)
class Storage:
    """The module's class, the dtypes of what it holds, bits per weight, and how many distinct
    values a block of 32 plain floats has: a rounded weight that was widened again has fewer."""

    made_of: str
    dtypes: tuple[str, ...]
    bits: int
    distinct: int

    @property
    def plain(self) -> bool:
        """Whether all of it is floating-point numbers of 16 bits or more."""
        return all(name in ("float64", "float32", "bfloat16", "float16") for name in self.dtypes)

    def __str__(self) -> str:
        kept = f"{self.bits}-bit {self.made_of}"
        return f"{kept}, {self.distinct} values a block" if 0 < self.distinct < _BLOCK else kept


def storage_of(module: nn.Module, weights: int) -> Storage:
    """How a candidate's module keeps so many weights of the reference's."""
    tensors = list(weight_tensors(module))
    dtypes = tuple(sorted({str(t.dtype).removeprefix("torch.") for t in tensors}))
    # Codes say how many bits a weight has; scales are floats, and small layers have many of them.
    codes = [t for t in tensors if not (t.is_floating_point() and t.dtype.itemsize > 1)]
    bits = 8 * storage_bytes(codes or tensors) // weights if weights else 0
    return Storage(type(module).__name__, dtypes, bits, _distinct(module))


@torch.no_grad()
def _distinct(module: nn.Module) -> int:
    weight = module._parameters.get("weight")
    if weight is None or type(weight.data) is not torch.Tensor or weight.ndim < 2:
        return 0
    if not weight.is_floating_point() or weight.shape[-1] % _BLOCK:
        return 0
    blocks = weight.reshape(-1, _BLOCK)
    step = max(1, len(blocks) // _BLOCKS)
    ordered = blocks[::step].float().sort(-1).values
    distinct = 1 + float((ordered.diff(dim=-1) > 0).sum(-1).float().mean())
    return round(2 ** (round(2 * math.log2(distinct)) / 2))
