"""What an ONNX file says of itself: its weights, where they lie, how its operators round.

The format: onnx.proto of https://github.com/onnx/onnx. Imports neither torch nor ONNX Runtime.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from ...errors import ModelLoadError
from ..base import StoredWeights
from ..files.checkpoints import fingerprint_of

_FLOATS = {
    TensorProto.DOUBLE: 64,
    TensorProto.FLOAT: 32,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
}
_CODES = {
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
}
_HALF = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16"}
# Operators that take activations in 8 bits, or round them to 8 bits for the next one.
_INTEGER_ACTIVATIONS = {
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "QAttention",
    "QLinearMatMul",
    "QuantizeLinear",
}
# Names of vectors that are weights, as every matrix is; others are what a graph counts with.
_WEIGHTS = ("weight", "bias", "scale", "zero_point", "quantized")
_INT8_LEVEL = 4  # MatMulNBits' accuracy_level that rounds activations to int8


@dataclass(frozen=True)
class OnnxGraph:
    """A file, the files that hold tensors for it, and what it is made of: ``weights`` of ``nbytes``
    bytes, and constants of ``buffer_bytes``.

    ``rounds_to`` is the coarsest format that activations are computed in: "float32", "float16" or
    "bfloat16", which stands for 8-bit integers, too.
    """

    path: Path
    external: tuple[Path, ...]
    weights: StoredWeights
    nbytes: int
    buffer_bytes: int
    rounds_to: str

    def fingerprint(self, options: Mapping[str, Any]) -> str:
        """Identifies all files' bytes (`checkpoints.fingerprint_of`), and the options."""
        each = [fingerprint_of(path, options) for path in (self.path, *self.external)]
        return hashlib.sha256("".join(each).encode()).hexdigest()


def read_graph(path: Path) -> OnnxGraph:
    """Read a file without the tensors beside it; raises ModelLoadError where it is no ONNX file, or
    tensors lie elsewhere than beside it."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ModelLoadError(
            f"{path} cannot be read as an ONNX file ({type(error).__name__}: {error}); export or "
            "download it again"
        ) from error
    graphs = list(_with_subgraphs(model.graph))
    tensors = [tensor for graph in graphs for tensor in graph.initializer]
    weights = [each for each in tensors if _is_weight(each)]
    numbers = _numbers_of(weights)
    nodes = [*(n for g in graphs for n in g.node), *(n for f in model.functions for n in f.node)]
    integers = any(_takes_integers(node) for node in nodes)
    most = max(_FLOATS, key=lambda kind: numbers[kind])
    coded = _bytes_of(Counter({kind: numbers[kind] for kind in _CODES}))
    return OnnxGraph(
        path=path,
        external=tuple(_external_files(path, tensors)),
        weights=StoredWeights(
            sum(numbers[kind] for kind in _FLOATS),
            _FLOATS[most],
            coded,
            integer_activations=integers,
        ),
        nbytes=_bytes_of(numbers),
        buffer_bytes=_bytes_of(_numbers_of(tensors)) - _bytes_of(numbers),
        rounds_to="bfloat16" if integers else _HALF.get(most, "float32"),
    )


def _is_weight(tensor: Any) -> bool:
    return len(tensor.dims) > 1 or tensor.name.endswith(_WEIGHTS)


def _numbers_of(tensors: list[Any]) -> Counter[int]:
    """How many numbers of each data type they hold."""
    found = Counter[int]()
    for tensor in tensors:
        found[tensor.data_type] += prod(tensor.dims)
    return found


def _bytes_of(numbers: Counter[int]) -> int:
    """What the floats and codes among them take."""
    return sum(-(-numbers[kind] * bits // 8) for kind, bits in (_FLOATS | _CODES).items())


def _with_subgraphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _with_subgraphs(inner)


def _takes_integers(node: Any) -> bool:
    if node.op_type == "MatMulNBits":
        return any(a.name == "accuracy_level" and a.i == _INT8_LEVEL for a in node.attribute)
    return node.op_type in _INTEGER_ACTIVATIONS


def _external_files(path: Path, tensors: list[Any]) -> Iterator[Path]:
    names = {
        entry.value
        for tensor in tensors
        if tensor.data_location == TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in sorted(names):
        file = path.parent / name
        if Path(name).name != name or not file.is_file():
            raise ModelLoadError(
                f"{path} keeps tensors in {name!r}, which is no file beside it; keep both together"
            )
        yield file
