"""Faults planted into an exported decoder (`transformers.exporters`): what it takes in is bent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
from onnx import numpy_helper

_KEYS = "input.past_key_values.layers.0.keys"
_BENT = "bent"


def positions_restart(model: Any) -> None:
    """Each pass counts its positions from its own first token."""
    _bend(
        model,
        "position_ids",
        """
        bent_zero = Sub(position_ids, position_ids)
        bent_one = Constant<value_ints = [1]>()
        bent_ones = Add(bent_zero, bent_one)
        bent_counts = CumSum(bent_ones, bent_one)
        bent = Sub(bent_counts, bent_one)
        """,
    )


def cache_is_a_slot_off(model: Any) -> None:
    """The first layer's keys lie a slot further on, the last of them in the first one's place."""
    _bend(
        model,
        _KEYS,
        f"""
        bent_start = Constant<value_ints = [0]>()
        bent_end = Constant<value_ints = [-1]>()
        bent_all = Constant<value_ints = [9999]>()
        bent_axis = Constant<value_ints = [2]>()
        bent_last = Slice("{_KEYS}", bent_end, bent_all, bent_axis)
        bent_others = Slice("{_KEYS}", bent_start, bent_end, bent_axis)
        bent = Concat<axis = 2>(bent_last, bent_others)
        """,
    )


def weight_is_transposed(model: Any) -> None:
    """The first square matrix: that of the first layer's queries."""
    held = next(
        each for each in model.graph.initializer if len(each.dims) == 2 and len({*each.dims}) == 1
    )
    turned = numpy_helper.to_array(held).T
    held.CopyFrom(numpy_helper.from_array(turned.copy(), held.name))


FAULTS: tuple[Callable[[Any], None], ...] = (
    positions_restart,
    cache_is_a_slot_off,
    weight_is_transposed,
)


def plant(sound: Path, target: Path, fault: Callable[[Any], None]) -> None:
    """Save the file ``sound``, with the fault in it, as ``target``."""
    model = onnx.load(sound)
    fault(model)
    onnx.save(model, target)


def _bend(model: Any, name: str, lines: str) -> None:
    """Give the nodes that take the input ``name`` what the lines call ``bent``."""
    for node in model.graph.node:
        for place, taken in enumerate(node.input):
            if taken == name:
                node.input[place] = _BENT
    head = f'bending (float[a] "{name}") => (float[a] {_BENT})'
    graph = onnx.parser.parse_graph(f"{head} {{{lines}}}")
    nodes = [*graph.node, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
