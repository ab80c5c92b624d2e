"""Schemes and weights of all kinds, for the laws that every number format keeps."""

import itertools
import math

import torch
from hypothesis import strategies as st
from infopt_reference.quantization import Granularity, QuantizationScheme

GRIDS = [
    *(
        {"bits": bits, "symmetric": symmetric}
        for bits in range(2, 9)
        for symmetric in (True, False)
    ),
    *({"bits": 4, "codebook": name} for name in ("nf4", "fp4")),
    *({"bits": 8, "codebook": name} for name in ("e4m3fn", "e5m2")),
    {"bits": 4, "codebook": "nf4", "double_quantization": True},
    {"bits": 8, "codebook": "e4m3fn", "double_quantization": True},
]
PLAIN_GRIDS = [grid for grid in GRIDS if "double_quantization" not in grid]
PLACES = [
    {"granularity": Granularity.TENSOR},
    {"granularity": Granularity.CHANNEL, "axis": 0},
    {"granularity": Granularity.CHANNEL, "axis": -1},
    *({"granularity": Granularity.GROUP, "group_size": size} for size in (1, 3, 4, 64)),
]
SCALE_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FLOAT64_SLACK = 1 + 2**-40  # roundings of the float64 arithmetic in the tests themselves


def grids(**only):
    """Grids whose fields agree with ``only``; a missing field counts as its default."""
    default = {"symmetric": True, "codebook": None, "double_quantization": False}
    return st.sampled_from([g for g in GRIDS if only.items() <= (default | g).items()])


ANY_GRID, ANY_PLACE = st.sampled_from(GRIDS), st.sampled_from(PLACES)


@st.composite
def schemes(draw, grid=ANY_GRID, places=ANY_PLACE):
    grid = draw(grid)
    dtypes = SCALE_DTYPES[:1] if grid.get("double_quantization") else SCALE_DTYPES
    return QuantizationScheme(
        **grid,
        **draw(places),
        scale_dtype=draw(st.sampled_from(dtypes)),
        packed=draw(st.booleans()),
    )


def numbers(dtype, largest):
    # bfloat16 is a subset of float32: cast.
    width = {torch.float16: 16, torch.bfloat16: 32, torch.float32: 32, torch.float64: 64}[dtype]
    # Only float64 reaches below 1e-100, and below 1e-300 the bound is not promised.
    return st.floats(-largest, largest, width=width).map(lambda x: x if abs(x) > 1e-100 else 0.0)


@st.composite
def weights(draw, dtype=None, largest=2.0**10, rank=None):
    """Tensors of rank 1…3, sizes that divide nothing, all kinds of values, some groups of zeros."""
    dtype = dtype or draw(
        st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
    )
    rank = rank or draw(st.integers(1, 3))
    shape = [draw(st.integers(1, 5)) for _ in range(rank - 1)] + [draw(st.integers(1, 11))]
    count = math.prod(shape)
    kind = draw(st.sampled_from(["any", "positive", "negative", "constant", "tiny"]))
    values = draw(st.lists(numbers(dtype, largest), min_size=count, max_size=count))
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype).view(shape)
    if kind == "positive":
        tensor = tensor.abs()
    elif kind == "negative":
        tensor = -tensor.abs()
    elif kind == "constant":
        tensor = torch.full_like(tensor, values[0])
    elif kind == "tiny":
        tensor = tensor * 2.0**-30
    if draw(st.booleans()):
        tensor[0] = 0
    return tensor


def spread(per_group, shape, scheme):
    """Numbers of the groups, one for each weight, without the code under test's broadcasting."""
    result = torch.empty(shape, dtype=torch.float64)
    for index in itertools.product(*map(range, shape)):
        if scheme.granularity is Granularity.TENSOR:
            result[index] = per_group
        elif scheme.granularity is Granularity.CHANNEL:
            result[index] = per_group[index[scheme.axis]]
        else:
            result[index] = per_group[(*index[:-1], index[-1] // scheme.group_size)]
    return result
