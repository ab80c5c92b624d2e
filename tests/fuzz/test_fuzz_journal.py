"""Random damage to a journal: a run goes on from it, or refuses it in a sentence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from cases import cases, refusal
from documents import DEEP, altered, damaged, json_bytes
from hypothesis import given
from hypothesis import strategies as st

from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.verdict import Judgement, Verdict
from pytest_infopt.store.journal import Journal, JournalError, RunRecords

EARLIER = Path(__file__).parents[1] / "run" / "earlier_run"


def lines() -> list[bytes]:
    """A record of each kind, and of each gate one sample, of a run of an earlier version."""
    journal = gzip.decompress((EARLIER / "journal.jsonl.gz").read_bytes()).splitlines()
    samples = {record["gate"]: line for line in journal if "gate" in (record := json.loads(line))}
    row = Judgement("kl_mean", 0.5, n=8, units=2, verdict=Verdict.PASS, interval=(0.0, 1.0))
    result = GateResult("quality", "int8", 1.0, [row], findings=[{"document": "d"}])
    item = {"kind": "item", "result": result.to_json()}
    return [journal[0], *samples.values(), json_bytes(item)]


LINES = lines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def goes_on(folder: Path, content: bytes) -> RunRecords | None:
    """What a resumed run knows of the journal, or None where it is refused."""
    (folder / "journal.jsonl").write_bytes(content)
    found: list[RunRecords] = []

    def go_on() -> None:
        Journal(folder / "journal.jsonl").close()
        records = RunRecords.read(folder)
        assert records.run is None or records.run["kind"] == "run"
        for record in records.records:
            if record["kind"] == "sample":
                records.samples(record["gate"], record["candidate"])
        records.finished()
        found.append(records)

    message = refusal(JournalError, go_on)
    assert message is None or ("journal" in message and "\n" not in message)
    return next(iter(found), None)


def test_the_whole_one_goes_on(folder: Path) -> None:
    records = goes_on(folder, b"\n".join(LINES) + b"\n")
    assert records is not None
    assert len(records.records) == len(LINES)
    assert len(records.finished()) == 1


@cases(smoke=30, fuzz=3000)
@given(damaged(b"\n".join(LINES) + b"\n"))
def test_any_damage_to_its_bytes(folder: Path, content: bytes) -> None:
    goes_on(folder, content)


@cases(smoke=30, fuzz=1000)
@given(
    st.sampled_from(LINES).flatmap(lambda line: altered(json.loads(line))).map(json_bytes) | DEEP
)
def test_any_record(folder: Path, record: bytes) -> None:
    goes_on(folder, b"\n".join([*LINES, record]) + b"\n")


@cases(smoke=30, fuzz=1000)
@given(st.lists(st.sampled_from(LINES)))
def test_any_order_of_whole_records(folder: Path, chosen: list[bytes]) -> None:
    assert goes_on(folder, b"".join(line + b"\n" for line in chosen)) is not None
