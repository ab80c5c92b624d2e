"""Bytes by category of both models, for people."""

from __future__ import annotations

from pytest_infopt import MeasuredTable, Plot, Sample

_CATEGORIES = {
    "weight_bytes": "weights",
    "buffer_bytes": "buffers",
    "peak_allocated_bytes": "peak allocated",
    "peak_reserved_bytes": "peak reserved",
}


def category_table(reference: Sample, candidate: Sample) -> MeasuredTable:
    """Weights, buffers, the KV cache of the measured request, and the device's peaks if it has
    any."""
    both = (reference, candidate)
    rows = [
        (name, *(_mebibytes(sample.values.get(key)) for sample in both))
        for key, name in _CATEGORIES.items()
        if any(key in sample.values for sample in both)
    ]
    if any("kv_bytes" in sample.details for sample in both):
        batch, tokens = (candidate.details[name] for name in ("batch", "tokens"))
        name = f"KV cache, {batch} of {tokens} tokens"
        rows.append((name, *(_mebibytes(sample.details.get("kv_bytes")) for sample in both)))
    columns = ("category", "reference", "candidate")
    return MeasuredTable(
        "memory by category, MiB",
        columns,
        tuple(rows),
        plot=Plot("category", columns[1:], "MiB", "bar", ordered=True),
    )


def _mebibytes(count: float | None) -> float | None:
    return None if count is None else count / 2**20
