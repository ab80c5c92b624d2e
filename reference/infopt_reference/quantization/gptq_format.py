"""The tensors of a GPTQ checkpoint as a `QuantizedTensor`: the format of AutoGPTQ and gptqmodel.

For a layer with N outputs, K inputs, b bits and G = ceil(K / group_size) groups, all little-endian:
    qweight  int32 [K·b/32, N]   column n is a bit stream of the codes q[n, 0], q[n, 1], …
    qzeros   int32 [G, N·b/32]   row g is a bit stream of the zero points z[0, g], z[1, g], …
    scales   float [G, N]
    g_idx    int32 [K]           the group of each input; k // group_size where it is left out
    W[n, k] = (q[n, k] − z[n, g_idx[k]]) · s[n, g_idx[k]]

Version 1 (``checkpoint_format = "gptq"``) stores z − 1, which writers subtract from whole words: a
z of 0 borrows from its neighbour, and only adding to whole words gives it back. Version 2
("gptq_v2") stores z.

Contract. Codes and zero points are taken bit for bit, scales in their dtype; nothing is rounded.

Left out: activation order without static groups (g_idx not in order), whose groups are no
neighbours, so that `QuantizedTensor` cannot hold them; and writing.

Source: Frantar et al. 2022, arXiv:2210.17323, for the method; the storage has no paper, it is what
the packers of AutoGPTQ and gptqmodel write.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .grouping import scale_shape
from .packing import unpack
from .quantized import QuantizedTensor
from .scheme import Granularity, QuantizationScheme

BITS = (2, 3, 4, 8)
_WORD = 32


def read_gptq_layer(
    tensors: Mapping[str, Tensor],
    *,
    bits: int,
    group_size: int,
    version: int = 1,
    dtype: torch.dtype = torch.float16,
) -> QuantizedTensor:
    """The weight [N, K] of a layer.

    Args:
        tensors: ``qweight``, ``qzeros``, ``scales`` and, where the checkpoint has it, ``g_idx``.
        bits: of a code, one of `BITS`.
        group_size: inputs that share a scale; −1 for all of them.
        version: of the storage, 1 or 2.
        dtype: of the weight when it is dequantized without another being named.

    Raises:
        ValueError: bits, group size or version are none of the format's, shapes contradict each
            other, or g_idx is not in order.
    """
    if bits not in BITS or version not in (1, 2) or (group_size < 1 and group_size != -1):
        raise ValueError(
            f"bits {bits}, group_size {group_size}, version {version}: bits is one of {BITS}, "
            "group_size positive or -1, version 1 or 2"
        )
    qweight, qzeros, scales = (tensors[name] for name in ("qweight", "qzeros", "scales"))
    rows, columns = scales.shape[-1], qweight.shape[0] * _WORD // bits
    size = columns if group_size == -1 else group_size
    groups = -(-columns // size)
    _check_shapes(tensors, rows, columns, groups, bits)
    _check_order(tensors.get("g_idx"), columns, size)
    scheme = QuantizationScheme(
        bits=bits,
        symmetric=False,
        granularity=Granularity.GROUP,
        group_size=size,
        scale_dtype=scales.dtype,
    )
    shape = torch.Size([rows, columns])
    stored = scale_shape(shape, scheme)
    zero_points = _zero_points(qzeros, bits, groups * rows, version).view(groups, rows)
    return QuantizedTensor(
        scheme=scheme,
        shape=shape,
        dtype=dtype,
        # K·b is a multiple of 32, so the columns' streams, one after the other, are `pack`'s bytes.
        codes=qweight.T.contiguous().view(torch.uint8).reshape(-1),
        stored_scales=scales.T.contiguous().view(stored),
        zero_points=zero_points.T.contiguous().view(stored),
    )


def _zero_points(qzeros: Tensor, bits: int, count: int, version: int) -> Tensor:
    """Zero points, uint8 [G·N]."""
    words = qzeros.contiguous()
    if version == 1 and _WORD % bits == 0:
        ones = sum(1 << start for start in range(0, _WORD, bits))
        words = words + torch.tensor(ones, dtype=torch.int64).to(torch.int32)  # wraps, as it should
    zero_points = unpack(words.view(torch.uint8).reshape(-1), bits, count)
    if version == 1 and _WORD % bits:  # codes straddle words; these are stored one by one
        zero_points = (zero_points + 1) & ((1 << bits) - 1)
    return zero_points


def _check_shapes(
    tensors: Mapping[str, Tensor], rows: int, columns: int, groups: int, bits: int
) -> None:
    expected = {
        "qweight": (torch.int32, (columns * bits // _WORD, rows)),
        "qzeros": (torch.int32, (groups, rows * bits // _WORD)),
        "scales": (tensors["scales"].dtype, (groups, rows)),
    }
    for name, (dtype, shape) in expected.items():
        found = tensors[name]
        if found.dtype is not dtype or tuple(found.shape) != shape:
            raise ValueError(
                f"{name} is {found.dtype} {tuple(found.shape)}; {bits} bits, {columns} inputs, "
                f"{rows} outputs and {groups} groups make it {dtype} {shape}"
            )


def _check_order(g_idx: Tensor | None, columns: int, group_size: int) -> None:
    if g_idx is None:
        return
    neighbours = torch.arange(columns, device=g_idx.device) // group_size
    if not torch.equal(g_idx.long(), neighbours):
        raise ValueError(
            "g_idx is not in order (desc_act, activation order): groups are no neighbours; read "
            "this checkpoint with gptqmodel"
        )
