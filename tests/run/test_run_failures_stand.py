"""A FAIL that was found stays one, however the gate ends."""

from __future__ import annotations

from external_package import write_package

from pytest_infopt.run.exit_status import ExitStatus

# A gate whose first collection fails where the candidate's name says so, and whose second breaks.
GATE = """
from pytest_infopt import GateSpec, Metric, Rule, Unit
FIRST = Metric("first_faults", Unit.COUNT, Rule.WORST, "faults of the first collection")
SECOND = Metric("second_faults", Unit.COUNT, Rule.WORST, "faults of the second collection")
GATE = GateSpec(
    package=__package__, name="breaking", summary="Breaks.", metrics=(FIRST, SECOND),
    default_budgets=lambda context: {"first_faults": 0.0, "second_faults": 0.0},
)
"""
MEASURE = """
from pytest_infopt import Sample, remote
from pytest_infopt import errors

class BreakingMeasure:
    def __init__(self, pair):
        self._name = pair.source.name

    @remote
    def first(self, index):
        values = {"first_faults": float("bad" in self._name)}
        if index and "late" in self._name:
            raise getattr(errors, self._name.rpartition("_")[2])("broke in the first")
        return Sample(f"{index}", 1, values)

    @remote
    def second(self, index):
        raise getattr(errors, self._name.rpartition("_")[2])("broke in the second")
"""
PROCEDURE = """
import pytest
from .gate import FIRST, SECOND
pytestmark = pytest.mark.infopt_gate("breaking")

def test_breaking(infopt_gate):
    gate = infopt_gate
    for metric, measure in ((FIRST, gate.measure.first), (SECOND, gate.measure.second)):
        gate.collect(
            range(2), measure, planned=2, phase=metric.name, metrics=[metric],
            provisional="provisional" in gate.candidate.name,
        )
    gate.conclude()
"""


EXPECTED = {
    "bad_InvalidComparisonError": ("FAIL", "FAIL", "INCONCLUSIVE"),
    "bad_NotSupportedError": ("FAIL", "FAIL", "INCONCLUSIVE"),
    "bad_ModelLoadError": ("FAIL", "FAIL", None),
    "sound_InvalidComparisonError": ("INCONCLUSIVE", "INCONCLUSIVE", "INCONCLUSIVE"),
    "late_InvalidComparisonError": ("INCONCLUSIVE", "INCONCLUSIVE", "INCONCLUSIVE"),
    "bad_provisional_InvalidComparisonError": ("INCONCLUSIVE", "INCONCLUSIVE", "INCONCLUSIVE"),
}


def test_a_fail_outlives_what_breaks_afterwards(gate, result, pytester) -> None:
    write_package(
        pytester,
        "breaking_gate",
        {"gate.py": GATE, "measure.py": MEASURE, "test_gate_breaking.py": PROCEDURE},
        {"infopt.gates": {"breaking": "breaking_gate.gate:GATE"}},
    )
    run = gate(
        "-k", "breaking", "--pyargs", "breaking_gate",
        candidates=dict.fromkeys(EXPECTED, ""), subprocess=True,
    )  # fmt: skip
    assert run.ret == ExitStatus.FAILED
    document = result()
    for index, item in enumerate(document["items"]):
        rows = {r["metric"]: r["verdict"] for r in document["gates"] if r["item"] == index}
        found = item["verdict"], rows.get("first_faults"), rows.get("second_faults")
        assert found == EXPECTED[item["candidate"]], item["candidate"]
    assert len(document["items"]) == len(EXPECTED)
