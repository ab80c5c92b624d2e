"""result.json: nothing is lost, the schema describes all of it, damage is refused by name."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from report_strategies import RELAXED, runs

from pytest_infopt.metrics.metric import Unit
from pytest_infopt.report.document import (
    ResultFileError,
    read_result,
    result_document,
    result_from_document,
    result_schema,
    write_result,
)
from pytest_infopt.results.gate_result import GateResult
from pytest_infopt.results.run_result import SCHEMA, RunResult
from pytest_infopt.results.verdict import Judgement, Verdict
from pytest_infopt.strict_json import dumps, loads

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(result_schema())


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is not JSON")


@pytest.fixture
def run() -> RunResult:
    quality = GateResult(
        gate="quality",
        candidate="nf4",
        seconds=2.5,
        judgements=[
            Judgement(
                "kl_mean", 0.06, 900, 9, Verdict.FAIL, 0.05, (0.055, math.inf), "beyond", 4, 0.01
            ),
            Judgement("kl_max", math.nan, 900, 9),
        ],
        notes=["note"],
        findings=[
            {
                "document": "d1",
                "position": 3,
                "context": "c",
                "true_token": " t",
                "reference_top": [[" t", 0.9]],
                "candidate_top": [[" u", 0.8]],
                "kl": 1.5,
                "gap_ulps": 12.0,
            }
        ],
        reproduce="pytest",
        details={"k": 1},
    )
    return RunResult(
        version="0.1.0",
        started="2026-11-22T10:00:00+00:00",
        run_id="r1",
        environment={"python": "3.11"},
        reference={"name": "ref"},
        candidates=[{"name": "nf4"}, {"name": "int8"}],
        gates=[quality, GateResult("latency", "int8", 1.0, error="out of memory")],
        seconds=4.0,
        not_run=["memory of int8"],
    )


@RELAXED
@given(runs)
def test_written_then_read_is_the_same_run(run: RunResult) -> None:
    text = dumps(result_document(run))
    assert result_from_document(loads(text)) == run


@RELAXED
@given(runs)
def test_file_is_strict_ascii_json_that_keeps_the_schema(run: RunResult) -> None:
    text = dumps(result_document(run))
    assert text.isascii()
    VALIDATOR.validate(json.loads(text, parse_constant=refuse))


def test_file_round_trip_with_numbers_that_json_cannot_hold(run: RunResult, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "result.json"
    write_result(run, path)
    first, second = read_result(path).gates[0].judgements
    assert first == run.gates[0].judgements[0]
    assert second.value is not None
    assert math.isnan(second.value)
    written = json.loads(path.read_text(), parse_constant=refuse)
    assert written["gates"][1]["value"] is None
    assert written["nonfinite"] == {"/gates/0/interval/1": "Infinity", "/gates/1/value": "NaN"}
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_top_level_and_rows_have_the_promised_keys(run: RunResult) -> None:
    document = result_document(run)
    assert set(document) == {
        "schema", "version", "started", "environment", "reference", "candidates", "gates",
        "verdict", "run_id", "seconds", "items", "not_run", "left_out", "failed_tests", "faults",
        "not_applicable", "corpus",
    }  # fmt: skip
    row = document["gates"][0]
    assert set(row) == {
        "gate", "candidate", "metric", "unit", "budget", "value", "interval", "n", "clusters",
        "verdict", "seconds", "reason", "needed", "detectable", "details",
        "item", "higher_is_better",
    }  # fmt: skip
    assert (row["gate"], row["metric"], row["unit"]) == ("quality", "kl_mean", "nats")
    assert (row["verdict"], row["seconds"]) == ("FAIL", 2.5)


def test_two_gates_of_one_name_keep_their_own_rows(run: RunResult) -> None:
    twice = replace(run, gates=[run.gates[0], run.gates[1], replace(run.gates[0], seconds=9.0)])
    read = result_from_document(loads(dumps(result_document(twice))))
    assert [len(gate.judgements) for gate in read.gates] == [2, 0, 2]


def test_schema_is_a_schema_and_describes_every_property() -> None:
    schema = result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == SCHEMA
    described = list(_properties(schema))
    assert len(described) > 40
    assert [name for name, text in described if not text] == []


def test_schema_names_every_unit_and_every_verdict() -> None:
    definitions = result_schema()["$defs"]
    assert set(definitions["row"]["properties"]["unit"]["enum"]) == {*Unit, None}
    assert set(definitions["verdict"]["enum"]) == set(Verdict)


def test_everything_written_is_described(run: RunResult) -> None:
    schema = result_schema()
    written = json.loads(dumps(result_document(run)))
    assert set(written) <= set(schema["properties"])
    for name, objects in (
        ("row", written["gates"]),
        ("item", written["items"]),
        ("finding", written["items"][0]["findings"]),
    ):
        for found in objects:
            assert set(found) == set(schema["$defs"][name]["properties"])


def test_a_file_without_the_later_keys_keeps_its_verdict(run: RunResult) -> None:
    """Gates that were not run did not bear on it."""
    document = result_document(replace(run, gates=[passed(run.gates[0])], not_run=["x of y"]))
    assert document["verdict"] == "INCONCLUSIVE"
    with pytest.raises(ResultFileError, match="edited or damaged"):
        result_from_document({**document, "verdict": "PASS"})
    for key in ("left_out", "failed_tests", "faults"):
        del document[key]
    assert result_from_document({**document, "verdict": "PASS"}).not_run == ["x of y"]


def passed(gate: GateResult) -> GateResult:
    judgements = [replace(j, verdict=Verdict.PASS) for j in gate.judgements]
    return replace(gate, judgements=judgements, error=None)


def test_deleting_any_required_key_breaks_the_schema(run: RunResult) -> None:
    written = json.loads(dumps(result_document(run)))
    places = [(), ("gates", 0), ("items", 0), ("reference",), ("candidates", 0)]
    later = {
        "left_out",
        "not_applicable",
        "failed_tests",
        "faults",
        "corpus",
    }  # earlier versions wrote none of these
    optional = {(): {"nonfinite", *later}, ("items", 0): {"not_run"}}
    deleted = 0
    for place in places:
        for key in set(_at(written, place)) - optional.get(place, set()):
            damaged = copy.deepcopy(written)
            del _at(damaged, place)[key]
            assert not VALIDATOR.is_valid(damaged), f"{place} without {key}"
            deleted += 1
    assert deleted == 12 + 17 + 9 + 1 + 1


@pytest.mark.parametrize("place", [(), ("gates", 0), ("items", 0)])
@pytest.mark.parametrize("wrong", ["MAYBE", "pass", "", 1, ["PASS"]])
def test_a_wrong_verdict_breaks_the_schema(
    run: RunResult, place: tuple[str | int, ...], wrong: object
) -> None:
    written = json.loads(dumps(result_document(run)))
    _at(written, place)["verdict"] = wrong
    assert not VALIDATOR.is_valid(written)


@pytest.mark.parametrize("key", ["run", "item", "row"])
def test_an_edited_verdict_is_found_out(run: RunResult, tmp_path: Path, key: str) -> None:
    document = result_document(run)
    target = {"run": document, "item": document["items"][0], "row": document["gates"][0]}[key]
    target["verdict"] = "PASS"
    path = tmp_path / "result.json"
    path.write_text(dumps(document))
    with pytest.raises(ResultFileError, match=r"result\.json: verdict of .* edited or damaged"):
        read_result(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", "expected a JSON object"),
        ("{}", "KeyError: 'schema'"),
        ('{"schema": 99, "version": "9.9"}', r"schema 99; this version reads schema 1.*9\.9"),
        ('{"schema": NaN}', "NaN is not JSON"),
        ('{"schema": 1, "items": 3}', "not a result"),
        ('{"schema": 1, "nonfinite": {"/schema": "NaN"}}', "holds no null"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ResultFileError, match=rf"broken\.json: .*{message}"):
        read_result(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResultFileError, match=r"none\.json: cannot be read: No such file"):
        read_result(tmp_path / "none.json")


@pytest.mark.parametrize("item", [-1, 2])
def test_a_row_of_no_item_is_refused(run: RunResult, item: int) -> None:
    document = json.loads(dumps(result_document(run)))
    document["gates"][0]["item"] = item
    with pytest.raises(ResultFileError, match="there are 2 items"):
        result_from_document(document)


def test_a_row_that_names_another_candidate_than_its_item_is_refused(run: RunResult) -> None:
    document = json.loads(dumps(result_document(run)))
    document["gates"][0]["candidate"] = "int8"
    with pytest.raises(ResultFileError, match="candidate of a row of item 0"):
        result_from_document(document)


def test_a_failed_write_leaves_the_old_file(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_result(run, path)
    before = path.read_bytes()

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("pytest_infopt.strict_json.os.replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_result(replace(run, run_id="r2"), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_details_that_are_no_json_are_named_by_place(run: RunResult) -> None:
    bad = replace(run, environment={"a/b": [object()]})
    with pytest.raises(TypeError, match=r"/environment/a~1b/0 holds a object"):
        dumps(result_document(bad))
    with pytest.raises(TypeError, match="string keys only"):
        dumps(result_document(replace(run, environment={"a": {1: 2}})))


def test_numpy_numbers_paths_and_enums_become_plain() -> None:
    numpy = pytest.importorskip("numpy")
    values = {"f": numpy.float32(0.5), "i": numpy.int64(3), "p": Path("a"), "v": Verdict.PASS}
    assert loads(dumps(values)) == {"f": 0.5, "i": 3, "p": "a", "v": "PASS"}


def test_places_of_numbers_are_json_pointers_whatever_the_keys() -> None:
    found = {"a~1b": {"c/d": -math.inf}, "a/b": [math.inf, 1.0], "~": {"": math.inf}}
    text = dumps(found)
    assert loads(text) == found
    assert json.loads(text)["nonfinite"] == {
        "/a~01b/c~1d": "-Infinity",
        "/a~1b/0": "Infinity",
        "/~0/": "Infinity",
    }


def test_the_reserved_key_is_refused() -> None:
    with pytest.raises(ValueError, match="reserved"):
        dumps({"nonfinite": {}})


def test_reports_and_store_import_neither_torch_nor_transformers() -> None:
    modules = ["document", "terminal", "markdown", "annotations", "junit"]
    imports = "\n".join(f"import pytest_infopt.report.{name}" for name in modules)
    script = f"""{imports}
import pytest_infopt.store.journal, pytest_infopt.store.baselines, sys
print(sorted({{"torch", "transformers", "numpy"}} & set(sys.modules)))"""
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert output.stdout.strip() == "[]"


def _at(document: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        document = document[key]
    return document


def _properties(schema: object) -> Iterator[tuple[str, str | None]]:
    """Every property with its own description, or that of the definition it refers to."""
    if isinstance(schema, dict):
        for name, found in schema.get("properties", {}).items():
            yield name, found.get("description")
        for inner in schema.values():
            yield from _properties(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _properties(inner)
