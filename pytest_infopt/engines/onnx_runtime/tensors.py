"""The inputs and outputs by which an exported decoder is driven: names, shapes, types.

The names are those of transformers.exporters and of Optimum: input_ids, attention_mask,
position_ids, logits; and of keys and values input.past_key_values.… with output.past_key_values.…,
or past_key_values.… with present.….
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...errors import ModelLoadError

IDS, MASK, POSITIONS, LOGITS = "input_ids", "attention_mask", "position_ids", "logits"
_PAST = "past_key_values."
_PRESENT = {f"input.{_PAST}": f"output.{_PAST}", _PAST: "present."}  # what begins a name
_INTEGERS = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@dataclass(frozen=True)
class PastTensor:
    """Keys or values of a layer: what the pass takes as ``name`` and gives as ``present``.

    ``shape`` has 0 where the tokens are, along ``axis``; its first entry is the batch's.
    """

    name: str
    present: str
    shape: tuple[int, ...]
    axis: int
    dtype: Any

    @property
    def token_bytes(self) -> int:
        """What a token of one row takes."""
        sizes = (size for place, size in enumerate(self.shape) if place not in (0, self.axis))
        return prod(sizes) * int(np.dtype(self.dtype).itemsize)

    def empty(self, batch: int) -> np.ndarray[Any, Any]:
        """Keys or values of no token."""
        return np.zeros((batch, *self.shape[1:]), self.dtype)


@dataclass(frozen=True)
class DecoderTensors:
    """What a session takes and gives; ``integers`` are the types of its inputs of integers."""

    integers: Mapping[str, Any]
    past: tuple[PastTensor, ...]
    batches: bool

    @classmethod
    def of(cls, inputs: Sequence[Any], outputs: Sequence[Any]) -> DecoderTensors:
        """Of a session's descriptions; raises ModelLoadError for a model that is driven otherwise,
        or whose shapes are fixed."""
        integers = {each.name: _type(each, _INTEGERS) for each in inputs if not _is_past(each)}
        others = sorted(integers.keys() - {IDS, MASK, POSITIONS})
        given = {each.name: each for each in outputs}
        if IDS not in integers or others or LOGITS not in given:
            raise ModelLoadError(
                f"its inputs are {', '.join(each.name for each in inputs)} and its outputs "
                f"{', '.join(given)}; a decoder takes {IDS}, {MASK}, {POSITIONS} and {_PAST}…, and "
                f"gives {LOGITS} and present.…"
            )
        _type(given[LOGITS], _FLOATS)
        batch, tokens = next(each.shape for each in inputs if each.name == IDS)
        if _fixed(tokens) is not None:
            raise ModelLoadError(
                f"its {IDS} have the fixed shape {batch} × {tokens}; export it with dynamic shapes"
            )
        past = tuple(_past(each, given) for each in inputs if _is_past(each))
        return cls(integers, past, batches=_fixed(batch) is None and MASK in integers)


def _is_past(described: Any) -> bool:
    return str(described.name).startswith(tuple(_PRESENT))


def _type(described: Any, known: Mapping[str, Any]) -> Any:
    if described.type not in known:
        raise ModelLoadError(
            f"its {described.name} is a {described.type}; known: {', '.join(known)}"
        )
    return known[described.type]


def _fixed(size: Any) -> int | None:
    """An axis's size, None where it is dynamic. torch.onnx names some axes by their size."""
    return int(size) if isinstance(size, int) or str(size).isdecimal() else None


def _past(described: Any, given: Mapping[str, Any]) -> PastTensor:
    begins = next(each for each in _PRESENT if described.name.startswith(each))
    present = _PRESENT[begins] + described.name.removeprefix(begins)
    if present not in given:
        raise ModelLoadError(f"it takes {described.name} and gives no {present}; export it anew")
    sizes = [_fixed(size) for size in described.shape]
    axes = [place for place, size in enumerate(sizes) if place and size is None]
    if len(axes) != 1:
        raise ModelLoadError(
            f"the shape of its {described.name} is {list(described.shape)}; one axis behind the "
            "first is the tokens', and the others have fixed sizes: export it with dynamic shapes"
        )
    shape = tuple(0 if place in (0, *axes) else size or 0 for place, size in enumerate(sizes))
    return PastTensor(described.name, present, shape, axes[0], _type(described, _FLOATS))
