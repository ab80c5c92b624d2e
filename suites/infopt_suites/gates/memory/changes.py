"""What an optimisation did to the weights, in the memory gate's samples."""

from __future__ import annotations

from dataclasses import replace

from pytest_infopt import ModelPair, ModelSource, Sample
from pytest_infopt.engines.base import Capability, ModuleEngine, able
from pytest_infopt.measure.weights import DEFAULT_SKIP, WeightChanges, bytes_at, compare_weights


def weight_changes(pair: ModelPair) -> WeightChanges | None:
    """The candidate's weights beside the reference's; None where there is nothing to compare."""
    engines = (pair.reference, pair.candidate)
    if any(Capability.MODULES not in engine.capabilities for engine in engines):
        return None
    reference, candidate = (able(engine, ModuleEngine).module for engine in engines)
    try:
        return compare_weights(reference, candidate, skipped(pair.source))
    except ValueError:  # the reference is quantized already
        return None


def skipped(source: ModelSource) -> tuple[str, ...]:
    """The names of what an optimisation was told to leave alone."""
    return tuple(source.options.get("skip") or DEFAULT_SKIP)


def quantized_bytes(pair: ModelPair, bits: float) -> int | None:
    """What the reference's weights would weigh in the candidate's dtype, with ``bits`` for each
    weight of its matrices; None where its matrices are not known."""
    if Capability.MODULES not in pair.candidate.capabilities:
        return None
    with pair.reference_in(able(pair.candidate, ModuleEngine).cache_dtype) as engine:
        if Capability.MODULES not in engine.capabilities:
            return None
        try:
            return bytes_at(bits, able(engine, ModuleEngine).module, skipped(pair.source))
        except ValueError:  # the reference is quantized already
            return None


def with_changes(sample: Sample, changes: WeightChanges | None, source: ModelSource) -> Sample:
    """The sample with the metrics of the changes; its details hold what was requested, to what that
    resolved, and what is observed."""
    if changes is None:
        return sample
    named = {name: f"left as it is, {count} weights" for name, count in changes.unchanged.items()}
    weights = {
        "requested": {"quantization": source.quantization, **source.options},
        "observed": {"weights": changes.weights, "bytes": changes.nbytes, **changes.values()},
        "left_alone": named | changes.skipped,
    }
    notes = [*sample.details.get("notes", ()), *changes.notes()]
    details = sample.details | {"weights": weights, "notes": notes}
    return replace(sample, values=sample.values | changes.values(), details=details)
