"""How near passes come to what the machine can do: arithmetic intensity against measured rate.

    work     2 · weights · rows · tokens: the products with the weight matrices, and with the head
             for each row's last token; attention, which is little at these lengths, is left out
    bytes    all weights once, as they are stored, and the KV cache that the pass reads
    roof     min(peak, intensity · bandwidth), measured on this device in this dtype

A quantized candidate does the reference's work on fewer bytes: its intensity is higher. Source:
`infopt_reference.measurement.roofline`. PYTEST_DONT_REWRITE: it times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from infopt_reference.measurement import Roofline, measure_roofline
from infopt_reference.weight_matrices import select_weight_matrices

from pytest_infopt import MeasuredTable, Plot
from pytest_infopt.engines.base import BatchEngine, KVSizeEngine, ModuleEngine, WeighedEngine
from pytest_infopt.measure import dtype_named

_BATCH = 4  # rows that decode together
_ROUNDS = 2  # of everything that is timed; the faster one counts
_GIGA = 1e9
SMALLEST = 2**24  # bytes of weights; of a smaller model, passes time the calls of its layers


class RooflineEngine(BatchEngine, KVSizeEngine, ModuleEngine, WeighedEngine, Protocol):
    """What the table takes of both models."""


@dataclass(frozen=True)
class Pass:
    """``rows`` of ``tokens`` new tokens each, behind ``context`` tokens in the cache."""

    name: str
    rows: int
    context: int
    tokens: int


def passes_of(tokens: int) -> tuple[Pass, ...]:
    """Decoding alone and in a batch, and a prompt, with ``tokens`` tokens in the cache in all."""
    return (
        Pass("decode", 1, tokens, 1),
        Pass(f"decode, {_BATCH} rows", _BATCH, max(1, tokens // _BATCH), 1),
        Pass(f"prompt of {tokens}", 1, 0, tokens),
    )


def roofline_table(
    reference: RooflineEngine, candidate: RooflineEngine, tokens: int
) -> MeasuredTable | None:
    """Each pass of both models; None where the reference's matrices are not known, or its weights
    take less time than what calls them."""
    if reference.memory().weight_bytes < SMALLEST:
        return None
    try:
        body, head = _weights(reference)
    except ValueError:  # it is quantized already
        return None
    rows: list[tuple[str | float, ...]] = []
    notes = []
    for name, engine in (("reference", reference), ("candidate", candidate)):
        roofline = _roofline(engine)
        stored = engine.memory().weight_bytes
        rows += [(name, *row) for row in _rows(engine, roofline, (body, head, stored), tokens)]
        notes.append(
            f"{name}, {engine.cache_dtype}: {roofline.peak / _GIGA:.3g} Gflop/s, "
            f"{roofline.bandwidth / _GIGA:.3g} GB/s"
        )
    columns = ("model", "pass", "flop a byte", "measured, Gflop/s", "roof, Gflop/s", "of the roof")
    plot = Plot("flop a byte", columns[3:5], "rate, Gflop/s", log_x=True, log_y=True, group="model")
    return MeasuredTable("roofline", columns, tuple(rows), tuple(notes), plot)


def _rows(
    engine: RooflineEngine, roofline: Roofline, weights: tuple[int, int, int], tokens: int
) -> Iterator[tuple[str | float, ...]]:
    body, head, stored = weights
    for each in passes_of(tokens):
        seconds = min(
            engine.pass_seconds(each.rows, each.context, each.tokens) for _ in range(_ROUNDS)
        )
        work = 2 * each.rows * (body * each.tokens + head)
        moved = stored + engine.kv_cache_bytes(each.context + each.tokens, each.rows)
        rate, roof = work / seconds, roofline.roof(work / moved)
        yield each.name, work / moved, rate / _GIGA, roof / _GIGA, rate / roof


def _weights(engine: RooflineEngine) -> tuple[int, int]:
    """Of the matrices, each counted as often as it is used, and of the head."""
    chosen = select_weight_matrices(engine.module).chosen.values()
    head = engine.module.get_output_embeddings()
    return sum(m.parameter.numel() for m in chosen), 0 if head is None else head.weight.numel()


def _roofline(engine: RooflineEngine) -> Roofline:
    return measure_roofline(torch.device(engine.device), dtype_named(engine.cache_dtype), _ROUNDS)
