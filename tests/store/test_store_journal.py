"""The journal: what was written whole is read back, whatever killed the writer."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.sample import Sample, TokenFinding
from pytest_infopt.results.verdict import Judgement, Verdict
from pytest_infopt.store.journal import (
    Journal,
    JournalError,
    RunRecords,
    journal_path,
    latest_run,
    new_run_id,
    read_journal,
    run_directory,
)

ROOT = Path(__file__).parents[2]
json_values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
records = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c\n\u2028"]), json_values), min_size=1, max_size=4
)


def sample(unit: str, **more: Any) -> Sample:
    return Sample(unit=unit, weight=3, values={"kl_mean": 0.5}, **more)


def write_records(path: Path, fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    path.unlink(missing_ok=True)
    with closing(Journal(path)) as journal:
        for record in fields:
            journal.write("x", **record)
    return [{"kind": "x", **record} for record in fields]


@given(records)
def test_records_round_trip(tmp_path_factory: pytest.TempPathFactory, fields: list[Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    written = write_records(path, fields)
    assert read_journal(path) == written
    assert path.read_bytes().count(b"\n") == len(written)


@settings(deadline=None)
@given(records, st.data())
def test_killed_at_any_byte_then_resumed_loses_at_most_the_torn_record(
    tmp_path_factory: pytest.TempPathFactory, fields: list[Any], data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "torn.jsonl"
    written = write_records(path, fields)
    content = path.read_bytes()
    kept = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:kept])
    # A record is whole once its last character is there; its line feed may be missing.
    ends = [i for i, byte in enumerate(content) if byte == 0x0A]
    whole = written[: sum(end <= kept for end in ends)]
    assert read_journal(path) == whole
    with closing(Journal(path)) as journal:
        journal.write("resumed")
    assert read_journal(path) == [*whole, {"kind": "resumed"}]


def test_a_killed_process_leaves_all_it_had_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    script = f"""
import os, signal
from pathlib import Path
from pytest_infopt.store.journal import Journal
journal = Journal(Path({str(path)!r}))
for index in range(50):
    journal.write("x", index=index)  # short: a buffer would swallow them all
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    assert [record["index"] for record in read_journal(path)] == list(range(50))


@pytest.mark.parametrize(
    "bad", [b"{", b'{"kind": "x"', b"[]", b"{}", b'{"kind": 3}', b'{"kind": NaN}', b"\xff\x00", b""]
)
@pytest.mark.parametrize("after", [b"", b'{"kind": "y"}\n', b'{"kind": "y'])
def test_damage_before_the_last_line_is_named_by_file_and_line(
    tmp_path: Path, bad: bytes, after: bytes
) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"kind": "x"}\n' + bad + b"\n" + after)
    with pytest.raises(JournalError, match=r"journal\.jsonl, line 2 is not a journal record"):
        read_journal(path)


def test_a_whole_last_line_that_is_no_record_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"kind": "x"}\n{"kin": "y"}')
    with pytest.raises(JournalError, match="line 2"):
        read_journal(path)


def test_samples_come_back_whole(tmp_path: Path) -> None:
    finding = TokenFinding("d", 1, "c", "t", [("a", 0.5)], [("b", 0.25)], 1.0, float("inf"))
    wanted = sample("doc-1", tokens={"kl": [0.1, float("inf")]}, findings=[finding], seconds=1.5)
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path)) as journal:
        journal.write_sample("quality", "nf4", "main", 0, wanted)
    assert RunRecords(read_journal(path)).samples("quality", "nf4") == [wanted]
    assert RunRecords(read_journal(path)).samples("quality", "int8") == []
    assert RunRecords(read_journal(path)).samples("latency", "nf4") == []


def test_samples_are_ordered_by_index_latest_first_gap_ends_them(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path)) as journal:
        for index, unit in ((2, "c"), (0, "old"), (1, "b"), (0, "a"), (4, "lost")):
            journal.write_sample("quality", "nf4", "main", index, sample(unit))
        journal.write_sample("quality", "nf4", "again", 0, sample("z"))
    found = RunRecords(read_journal(path))
    assert [s.unit for s in found.samples("quality", "nf4", "main")] == ["a", "b", "c"]
    assert [s.unit for s in found.samples("quality", "nf4", "again")] == ["z"]
    assert [s.unit for s in found.samples("quality", "nf4")] == ["a", "b", "c", "z"]


def test_workers_journals_are_merged(tmp_path: Path) -> None:
    done = GateResult("quality", "nf4", 1.0, [Judgement("kl_mean", 0.1, 1, 1, Verdict.PASS)])
    with (
        closing(Journal(journal_path(tmp_path))) as main,
        closing(Journal(journal_path(tmp_path, "gw1"))) as worker,
    ):
        main.write_run("f", 3, "0.1.0")
        worker.write_run("f", 3, "0.1.0")
        worker.write_sample("latency", "nf4", "main", 0, sample("p"))
        main.write_item(GateResult("quality", "nf4", 9.0, error="killed"))
        worker.write_item(done)
    found = RunRecords.read(tmp_path)
    assert found.run == {"kind": "run", "fingerprint": "f", "seed": 3, "version": "0.1.0"}
    assert [s.unit for s in found.samples("latency", "nf4")] == ["p"]
    assert len([r for r in found.records if r["kind"] == "item"]) == 2
    assert found.finished().keys() == {("quality", "nf4")}
    assert RunRecords(read_journal(journal_path(tmp_path, "gw1"))).finished() == {
        ("quality", "nf4"): done
    }


def test_journals_of_different_releases_are_refused(tmp_path: Path) -> None:
    with (
        closing(Journal(journal_path(tmp_path))) as main,
        closing(Journal(journal_path(tmp_path, "gw0"))) as worker,
    ):
        main.write_run("f", 3, "0.1.0")
        worker.write_run("g", 3, "0.1.0")
    with pytest.raises(JournalError, match="2 different runs"):
        _ = RunRecords.read(tmp_path).run


def test_a_folder_without_journals_holds_nothing(tmp_path: Path) -> None:
    found = RunRecords.read(tmp_path)
    assert found.records == []
    assert found.run is None
    assert found.samples("quality", "nf4") == []


def test_data_that_is_no_json_is_refused_and_leaves_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with closing(Journal(path)) as journal:
        with pytest.raises(TypeError, match="/bad holds a object"):
            journal.write("x", bad=object())
        journal.write("y")
    assert read_journal(path) == [{"kind": "y"}]


@given(st.lists(st.timedeltas(timedelta(0), timedelta(days=9999)), min_size=2, max_size=5))
def test_run_ids_sort_by_time(offsets: list[timedelta]) -> None:
    start = datetime(2000, 1, 1, tzinfo=UTC)
    moments = sorted({start + offset for offset in offsets})
    ids = [new_run_id(moment) for moment in moments]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_run_ids_of_one_moment_differ() -> None:
    moment = datetime(2026, 11, 22, tzinfo=UTC)
    assert len({new_run_id(moment) for _ in range(100)}) == 100


def test_latest_run_is_the_last_that_left_a_journal(tmp_path: Path) -> None:
    assert latest_run(tmp_path) is None
    ids = [new_run_id(datetime(2026, 1, day, tzinfo=UTC)) for day in (3, 1, 2)]
    for run_id in ids:
        with closing(Journal(journal_path(run_directory(tmp_path, run_id), "gw0"))) as journal:
            journal.write("x")
    run_directory(tmp_path, new_run_id()).mkdir()  # later, but nothing was journalled
    assert latest_run(tmp_path) == tmp_path / "runs" / ids[0]


@pytest.mark.parametrize("run_id", ["", "..", ".hidden", "a/b", "a\\b", "a b", "a\n", "é"])
def test_run_ids_that_are_no_folder_names_are_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ValueError, match="is no folder name"):
        run_directory(tmp_path, run_id)


def test_our_own_run_ids_are_folder_names(tmp_path: Path) -> None:
    assert run_directory(tmp_path, new_run_id()).parent == tmp_path / "runs"
