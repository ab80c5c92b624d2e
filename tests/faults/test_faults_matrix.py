"""The gates judge planted candidates, and the matrix keeps what they said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults import kinds, matrix
from faults.models import DENSE, write_release
from faults.planted_run import Bench

sys.path.append(str(matrix.DATA.parent))
import fault_matrix

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench.of(DENSE) as found:
        yield found


def test_a_fault_is_caught_named_and_gone(bench: Bench) -> None:
    cell = matrix.measured(bench, "bfloat16", "linear-scale", 0)
    assert cell.exceeds
    assert "modules" in cell.failed
    assert cell.right
    assert bench.run("bfloat16", ("modules",))["modules"].verdict == "PASS"


def test_a_fault_in_codes_is_caught_and_named(bench: Bench) -> None:
    cell = matrix.measured(bench, "int8", "linear-slope", 1, brief=True)
    assert (cell.failed, cell.right) == (["modules"], True)


def test_gates_of_a_route_see_what_shows_there(bench: Bench) -> None:
    cell = matrix.measured(bench, "float32", "cache-write-late", 0, brief=True)
    assert cell.failed == ["kv-cache"]
    assert cell.right is None


def test_a_change_below_the_formats_own_error_is_told_from_a_large_one(bench: Bench) -> None:
    def exceeds(kind: str, form: str) -> bool:
        candidate = bench.candidate(form)
        fault = kinds.draw(candidate, kind)
        with fault.planted() as changes:
            size = changes.size
        return bench.effects.exceeds(fault, size, candidate, form)

    assert exceeds("linear-slope", "float32")
    assert not exceeds("linear-slope", "int4")
    assert exceeds("cache-in-fewer-bits", "float32")
    assert not exceeds("cache-in-fewer-bits", "int4")
    assert exceeds("dropout-left-on", "int4")


def test_what_a_model_lacks_is_said(bench: Bench) -> None:
    assert "experts" in matrix.measured(bench, "float32", "expert-dead", 0).not_applicable
    assert matrix.measured(bench, "float32", "slows-slowly", 0).not_applicable


def test_runs_add_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "DATA", tmp_path / "faults.json")
    first, second = matrix.Cell("one", True), matrix.Cell("two", False, {"modules": "FAIL"})
    matrix.add({matrix.key_of("m", "int8", "k", 0): first})
    matrix.add({matrix.key_of("m", "int8", "k", 1): second})
    matrix.add({matrix.key_of("m", "int8", "k", 0): second})
    assert matrix.load() == {
        key: {"sentence": "two", "exceeds": False, "verdicts": {"modules": "FAIL"}, "seconds": 0.0}
        for key in ("m|int8|k|0", "m|int8|k|1")
    }


def test_every_route_has_gates_and_every_gate_is_one() -> None:
    from pytest_infopt.gates import registry

    assert set(matrix.ALL_GATES) <= set(registry.gates())
    assert {g for gates in matrix.GATES_OF_ROUTES.values() for g in gates} <= set(matrix.ALL_GATES)


def test_the_page_knows_every_kind() -> None:
    known = json.loads(matrix.KINDS.read_text(encoding="utf-8"))
    assert known == matrix.described_kinds(), "run python tests/faults/see.py"
    stale = {key.split("|")[2] for key in matrix.load()} - kinds.KINDS.keys()
    assert not stale


@pytest.mark.slow
@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8"])
def test_other_members_of_the_listed_kinds_fail(bench: Bench, form: str) -> None:
    """Of seeds that the page does not show."""
    for kind in kinds.faults(listed=True):
        cell = matrix.measured(bench, form, kind, 101, brief=True)
        if cell.exceeds and kind not in fault_matrix.REASONS:
            assert cell.failed, f"{kind}: {cell.sentence}"
            assert cell.right is not False, f"{kind}: {cell.sentence}, named: {cell.named}"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["float32", "bfloat16"])
def test_sound_variants_are_not_accused(bench: Bench, form: str) -> None:
    accused = {
        kind: cell.failed
        for kind in kinds.sound_variants()
        if kind not in fault_matrix.REASONS
        if (cell := matrix.measured(bench, form, kind, 101)).failed
    }
    assert not accused


def test_the_matrix_counts() -> None:
    large = {"sentence": "large", "exceeds": True, "right": True}
    sound = {"sentence": "sound", "exceeds": True, "verdicts": {"modules": "PASS"}}
    found = fault_matrix.Matrix(
        {
            "m|int8|linear-slope|0": large | {"verdicts": {"modules": "FAIL"}},
            "m|int8|linear-slope|1": large | {"verdicts": {"modules": "PASS"}, "right": False},
            "m|int8|linear-slope|2": large | {"verdicts": {"modules": "PASS"}, "exceeds": False},
            "m|int8|expert-dead|0": {"not_applicable": "no experts"},
            "m|int8|heads-permuted|0": sound,
            "m|int8|clean|0": sound,
        },
        matrix.described_kinds(),
        {
            "m|int8|linear-slope|0": {"a tool": {"caught": False, "right": False}},
            "m|int8|clean|0": {"a tool": {"caught": True}},
        },
    )
    assert found.totals() == {"caught": (1, 2), "named": (1, 2), "accused": (0, 2)}
    assert found.summary() == [["m", "int8", "1 of 2", "1 of 2", "0 of 1", "0 of 2"]]
    assert [row[0] for row in found.missed()] == ["`linear-slope`"]
    assert found.rivals() == [
        ["the gates", "int8", "1 of 1", "1 of 1", "–", "0 of 1"],
        ["a tool", "int8", "0 of 1", "0 of 1", "–", "1 of 1"],
    ]
    assert found.draws() == [["`linear-slope`", "m", "int8", "1 of 2", "1 of 2"]]
    assert found.clean_formats() == []
    assert ["`heads-permuted`", "–", "–", "passes", "–"] in found.table("m", sound=True)


@pytest.mark.slow
def test_a_planted_candidate_fails_a_run_of_pytest(tmp_path: Path) -> None:
    write_release(tmp_path, DENSE)
    options = {"kind": "linear-slope", "seed": 3, "format": "int8"}
    candidate = [
        "[candidates.planted]",
        'quantization = "faults.loader:load_planted"',
        f"options = {{{', '.join(f'{k} = {json.dumps(v)}' for k, v in options.items())}}}",
    ]
    with (tmp_path / "infopt.toml").open("a", encoding="utf-8") as release:
        release.write("\n".join(candidate) + "\n")
    command = [sys.executable, "-m", "pytest", "--infopt", "-q", "-k", "planted and modules"]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    with Bench.of(DENSE) as bench:
        fault = kinds.draw(bench.candidate("int8"), "linear-slope", 3)
    assert any(f"accused: {name}: its outputs" in run.stdout for name in fault.modules), run.stdout
