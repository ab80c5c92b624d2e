"""Memory: what the candidate's weights and KV cache weigh, and its peaks on a fixed workload."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pytest_infopt import Budget, GateRun, Judgement, Sample
from pytest_infopt.engines.weight_precision import precision_of

from ..byte_limits import against_reference
from .footprint import resident_pair
from .gate import RESIDENT, SIZES
from .tables import category_table

if TYPE_CHECKING:
    from .measure import MemoryMeasure

pytestmark = pytest.mark.infopt_gate("memory")

WEIGHTS = "weight_bytes"
BITS = "bits_per_weight"
MOST_PAIRS = 40  # of fresh processes; 9 are the fewest that can pass (STATISTICS: sign test)


def test_memory(infopt_gate: GateRun[MemoryMeasure]) -> None:
    """Bytes by category stay within budget, and the KV cache is as large as its formula says.

    A ``kv_prediction_error`` other than 0 means a cache that keeps more than keys and values, or
    one that rounds its length up. Sizes are read twice and compared exactly; resident memory varies
    from process to process, so it is judged on random-order pairs of fresh ones.
    """
    measure = infopt_gate.measure
    reference = measure.reference()
    readings = [measure.candidate(), measure.candidate()]
    infopt_gate.details["reference"] = reference.values
    infopt_gate.details["weights"] = readings[0].details.get("weights", {})
    for table in (category_table(reference, readings[0]).to_json(), *measure.weight_tables()):
        infopt_gate.show(table)
    sizes = infopt_gate.collect(
        readings,
        lambda reading: reading,
        planned=len(readings),
        metrics=SIZES,
        budgets=limits_in_bytes(infopt_gate, reference, readings[0]),
    )
    wanted = infopt_gate.candidate.has_defaults or RESIDENT.name in infopt_gate.budgets
    if wanted and not infopt_gate.failed:
        infopt_gate.judgements = [*sizes, *resident(infopt_gate)]
    infopt_gate.conclude()


def without_resident(gate: GateRun[MemoryMeasure]) -> dict[str, Budget]:
    return {name: budget for name, budget in gate.budgets.items() if name != RESIDENT.name}


def limits_in_bytes(
    gate: GateRun[MemoryMeasure], reference: Sample, reading: Sample
) -> dict[str, Budget]:
    """The limits in bytes. A candidate that is over the default limit on weights may weigh what
    follows from the reference's own weights in its dtype: a float one as much as they, since some
    models keep single tensors wider; a quantized one as much as they do with each matrix at the
    default limit on its bits, since what is no matrix stays as it is (MiniMax's tables of decays).
    """
    budgets = against_reference(without_resident(gate), reference.values)
    weights = budgets.get(WEIGHTS)
    if weights is None or not weights.is_default or reading.values[WEIGHTS] <= weights.limit:
        return budgets
    if precision_of(gate.candidate.source, gate.release.reference).lossless:
        derived: int | None = gate.measure.plain_weight_bytes()
    else:
        bits = budgets.get(BITS)
        default = bits is not None and bits.is_default
        derived = gate.measure.quantized_bytes(bits.limit) if bits and default else None
    if derived is None or derived <= weights.limit:
        return budgets
    gate.note([f"{WEIGHTS}: the limit follows from the reference's own weights: {derived} bytes"])
    return {**budgets, WEIGHTS: replace(weights, limit=derived)}


def resident(gate: GateRun[MemoryMeasure]) -> list[Judgement]:
    """Peak resident memory of fresh processes: judged where budgeted, in pairs of random order;
    else the candidate's is shown against one reading of the reference for the whole run."""
    judged = RESIDENT.name in gate.budgets
    most = MOST_PAIRS if judged else 1
    return gate.collect(
        range(most),
        lambda index: fresh_pair(gate, gate.coin(index)) if judged else shown_pair(gate),
        planned=most,
        phase="resident",
        metrics=[RESIDENT],
    )


def fresh_pair(gate: GateRun[MemoryMeasure], candidate_first: bool) -> Sample:
    order = (candidate_first, not candidate_first)
    peaks = {of_candidate: resident_bytes(gate, of_candidate) for of_candidate in order}
    return resident_pair(peaks[False], peaks[True], "processes")


def shown_pair(gate: GateRun[MemoryMeasure]) -> Sample:
    reference = gate.once("resident bytes", lambda: resident_bytes(gate, of_candidate=False))
    return resident_pair(reference, resident_bytes(gate, of_candidate=True), "processes")


def resident_bytes(gate: GateRun[MemoryMeasure], of_candidate: bool) -> int:
    """The peak of a fresh process that loads one model and serves one request."""
    with gate.fresh_process() as measure:
        return measure.resident_bytes(of_candidate)
