"""Faults of rotary embeddings: their frequencies, and the positions that they are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .changes import Changes
from .fault import Draw, Planned, kind
from .parts import past_length, positions_of


def _frequencies(draw: Draw) -> dict[str, Tensor]:
    """The inverse frequencies [D/2] of the rotary embedding, by buffer."""
    _, rope = draw.parts.rope
    found = {n: b for n, b in rope.named_buffers() if "inv_freq" in n and "original" not in n}
    draw.parts.needed("inverse frequencies", list(found.values()))
    return found


def _changed(draw: Draw, sentence: str, change: Any) -> Planned:
    """Replace the frequencies by what ``change`` makes of them."""
    found = _frequencies(draw)

    def plant(changes: Changes) -> None:
        for buffer in found.values():
            changes.assign(buffer, change(buffer.double()))

    return sentence, [draw.parts.rope[0]], plant


def _base(draw: Draw, factor: float) -> Planned:
    def change(frequencies: Tensor) -> Tensor:
        # θ^(−2i/D) with θ·factor in place of θ
        share = torch.arange(len(frequencies), dtype=torch.float64) / len(frequencies)
        return frequencies * torch.pow(torch.tensor(factor, dtype=torch.float64), -share)

    return _changed(draw, f"the base of the rotary embedding × {factor}", change)


@kind(listed=True)
def rope_base_slightly_off(draw: Draw) -> Planned:
    """The base of the rotary embedding is off by a ten-thousandth."""
    return _base(draw, draw.choice("factor", (1.0001, 0.9999)))


@kind(listed=True)
def rope_base_off(draw: Draw) -> Planned:
    """The base of the rotary embedding is a tenth off."""
    return _base(draw, draw.choice("factor", (1.1, 1 / 1.1)))


@kind(listed=True)
def rope_base_of_another_model(draw: Draw) -> Planned:
    """The base of the rotary embedding is ten times too small or too large."""
    return _base(draw, draw.choice("factor", (0.1, 10.0)))


@kind()
def rope_scaling_wrong(draw: Draw) -> Planned:
    """The scaling of the frequencies is forgotten, or a model without one has it."""
    parameters = getattr(draw.parts.config, "rope_parameters", None) or {}
    scaled = parameters.get("factor") if isinstance(parameters, dict) else None
    factor = draw.choice("factor", (1 / scaled,) if scaled else (2.0, 4.0))
    sentence = f"the frequencies of the rotary embedding / {factor:.4g}"
    return _changed(draw, sentence, lambda frequencies: frequencies / factor)


@kind()
def rope_frequencies_rounded(draw: Draw) -> Planned:
    """The frequencies are kept in bfloat16."""
    sentence = "the frequencies of the rotary embedding are rounded to bfloat16"
    return _changed(draw, sentence, lambda frequencies: frequencies.bfloat16())


@kind()
def rope_frequency_wrong(draw: Draw) -> Planned:
    """One frequency is that of its neighbour."""
    count = min(len(buffer) for buffer in _frequencies(draw).values())
    index = draw.choice("index", range(count - 1))

    def change(frequencies: Tensor) -> Tensor:
        frequencies[index] = frequencies[index + 1]
        return frequencies

    return _changed(draw, f"frequency {index} is that of {index + 1}", change)


@kind()
def rope_interleaved(draw: Draw) -> Planned:
    """The tables are laid out for pairs of neighbours, and the model rotates halves."""
    name, rope = draw.parts.rope

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        tables = forward(*args, **kwargs)
        half = tables[0].shape[-1] // 2
        return tuple(table[..., :half].repeat_interleave(2, dim=-1) for table in tables)

    sentence = "the tables of the rotary embedding are interleaved"
    return sentence, [name], lambda changes: changes.forward(rope, around)


@kind()
def rope_rows_interleaved(draw: Draw) -> Planned:
    """The rows of a layer's queries and keys are ordered for the other layout."""
    pattern = r"self_attn\.(q|k)_proj"
    layer = draw.layer(pattern)
    names = draw.parts.inside(layer, pattern)

    def plant(changes: Changes) -> None:
        for name in names:
            module = draw.parts.modules[name]
            heads = draw.parts.heads if name.endswith("q_proj") else draw.parts.kv_heads
            changes.weight(module, lambda w, heads=heads: _interleaved(w, heads))

    return f"rows of {' and '.join(names)} are interleaved", names, plant


def _interleaved(weight: Tensor, heads: int) -> Tensor:
    rows = weight.reshape(heads, 2, -1, weight.shape[-1])
    return rows.transpose(1, 2).reshape(weight.shape)


def _positions(draw: Draw, sentence: str, change: Any) -> Planned:
    """Give the rotary embedding other positions than the tokens have."""
    name, rope = draw.parts.rope

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        if "position_ids" in kwargs:
            kwargs["position_ids"] = change(kwargs["position_ids"])
        else:
            args = (args[0], change(args[1]), *args[2:])
        return forward(*args, **kwargs)

    return sentence, [name], lambda changes: changes.forward(rope, around)


@kind(listed=True)
def positions_clamped(draw: Draw) -> Planned:
    """Positions beyond a limit are the limit."""
    limit = draw.choice("limit", (24, 40))
    return _positions(draw, f"positions end at {limit}", lambda ids: ids.clamp(max=limit))


@kind()
def positions_restart(draw: Draw) -> Planned:
    """Positions begin anew behind a limit."""
    limit = draw.choice("limit", (24, 40))
    return _positions(draw, f"positions restart behind {limit}", lambda ids: ids % limit)


@kind()
def positions_rounded(draw: Draw) -> Planned:
    """Positions are kept in a float of too few bits."""
    bits = draw.choice("bits", (4, 5))

    def change(ids: Tensor) -> Tensor:
        step = torch.pow(2.0, (ids.clamp(min=1).float().log2().floor() - bits).clamp(min=0))
        return ((ids / step).round() * step).long()

    return _positions(draw, f"positions have {bits} bits", change)


@kind(shows="cached")
def decode_position_off(draw: Draw) -> Planned:
    """A token that is decoded through the cache has its neighbour's position."""
    step = draw.choice("step", (1, -1))

    def around(forward: Any, *args: Any, **kwargs: Any) -> Any:
        if past_length(kwargs):
            kwargs["position_ids"] = (positions_of(kwargs) + step).clamp(min=0)
        return forward(*args, **kwargs)

    sentence = f"decoded tokens are at positions {step:+}"
    return sentence, [], lambda changes: changes.forward(draw.parts.body, around)
