"""What an optimisation did to the weights, in the memory gate's samples."""

from __future__ import annotations

from dataclasses import replace

from pytest_infopt import ModelPair, ModelSource, Sample
from pytest_infopt.engines.base import Capability, ModuleEngine, able
from pytest_infopt.measure.weights import DEFAULT_SKIP, WeightChanges, compare_weights


def weight_changes(pair: ModelPair) -> WeightChanges | None:
    """The candidate's weights beside the reference's; None where there is nothing to compare."""
    engines = (pair.reference, pair.candidate)
    if any(Capability.MODULES not in engine.capabilities for engine in engines):
        return None
    skip = tuple(pair.source.options.get("skip") or DEFAULT_SKIP)
    reference, candidate = (able(engine, ModuleEngine).module for engine in engines)
    try:
        return compare_weights(reference, candidate, skip)
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
