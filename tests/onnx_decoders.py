"""A small decoder as an ONNX file that is written as text: attention of one head, D wide, V tokens.

`whole` is its closed form. Faults are planted by other lines in the place of its own, or by other
weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx.parser
import torch
from onnx import numpy_helper

VOCABULARY, WIDTH, WINDOW = 11, 4, 24
IDS = "int64[batch, tokens] input_ids"
MASK = "int64[batch, held] attention_mask"
POSITIONS = "int64[batch, tokens] position_ids"
LOGITS = "float[batch, tokens, 11] logits"
PAST = (
    'float[batch, 1, past, 4] "past_key_values.0.key"',
    'float[batch, 1, past, 4] "past_key_values.0.value"',
)
PRESENT = (
    'float[batch, 1, held, 4] "present.0.key"',
    'float[batch, 1, held, 4] "present.0.value"',
)
LINES = {
    "places": "Gather(place, position_ids)",
    "words": "Gather(word, input_ids)",
    "states": "Add(words, places)",
    "queries": "MatMul(states, to_query)",
    "keys": "MatMul(states, to_key)",
    "values": "MatMul(states, to_value)",
    "one": "Constant<value_ints = [1]>()",
    "query": "Unsqueeze(queries, one)",
    "key": "Unsqueeze(keys, one)",
    "value": "Unsqueeze(values, one)",
    "present.0.key": 'Concat<axis = 2>("past_key_values.0.key", key)',
    "present.0.value": 'Concat<axis = 2>("past_key_values.0.value", value)',
    "turned": 'Transpose<perm = [0, 1, 3, 2]>("present.0.key")',
    "products": "MatMul(query, turned)",
    # A token sees itself and what is before it: the last token all columns.
    "columns": "Shape<start = 3>(products)",
    "rows": "Shape<start = 2, end = 3>(products)",
    "before": "Sub(columns, rows)",
    "size": "Concat<axis = 0>(rows, columns)",
    "every": "ConstantOfShape<value = int64[1] {1}>(size)",
    "seen": "Trilu<upper = 0>(every, before)",
    "inner": "Constant<value_ints = [1, 2]>()",
    "shown": "Unsqueeze(attention_mask, inner)",
    "both": "Mul(seen, shown)",
    "attended": "Cast<to = 9>(both)",
    "never": "Constant<value_float = -3e38>()",
    "scores": "Where(attended, products, never)",
    "shares": "Softmax<axis = -1>(scores)",
    "mixed": 'MatMul(shares, "present.0.value")',
    "heads": "Squeeze(mixed, one)",
    "outcome": "Add(states, heads)",
    "logits": "MatMul(outcome, to_logits)",
}
# Without a cache, a pass has keys and values of its own alone.
UNCACHED = {"present.0.key": "Identity(key)", "present.0.value": "Identity(value)"}


def weights() -> dict[str, torch.Tensor]:
    """Random weights by name, small enough that softmax amplifies no rounding."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "word": (VOCABULARY, WIDTH),
        "place": (WINDOW, WIDTH),
        "to_query": (WIDTH, WIDTH),
        "to_key": (WIDTH, WIDTH),
        "to_value": (WIDTH, WIDTH),
        "to_logits": (WIDTH, VOCABULARY),
    }
    return {name: torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}


def whole(ids: Sequence[int], given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The logits [T, V] of a text, in float64."""
    word, place, to_query, to_key, to_value, to_logits = (each.double() for each in given.values())
    states = word[list(ids)] + place[: len(ids)]
    products = (states @ to_query) @ (states @ to_key).T
    later = torch.ones_like(products).triu(1).bool()
    shares = products.masked_fill(later, -torch.inf).softmax(-1)
    return (states + shares @ (states @ to_value)) @ to_logits


def write_decoder(
    path: Path,
    given: Mapping[str, torch.Tensor] | None = None,
    *,
    lines: Mapping[str, str] | None = None,
    inputs: Sequence[str] = (IDS, MASK, POSITIONS, *PAST),
    outputs: Sequence[str] = (LOGITS, *PRESENT),
) -> None:
    """Save the decoder; ``lines`` take the place of its own, or come before them."""
    said = {**{name: line for name, line in (lines or {}).items() if name not in LINES}}
    said |= LINES | dict(lines or {})
    body = "\n".join(f'"{name}" = {line}' for name, line in said.items())
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]>\n'
        f"decoder ({', '.join(inputs)}) => ({', '.join(outputs)}) {{\n{body}\n}}"
    )
    for name, tensor in (given or weights()).items():
        model.graph.initializer.append(numpy_helper.from_array(tensor.numpy(), name))
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
