"""What `infopt` says of runs that really ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_infopt.console import main
from pytest_infopt.strict_json import dumps, loads

Edit = Callable[[dict[str, Any]], None]
RUN = ("-k", "quality or stability or memory")


@pytest.fixture
def finished(gate, pytester: pytest.Pytester) -> Path:
    """A run's result.json; the console looks for runs in the folder that the run was started in."""
    gate(*RUN, budgets='host_peak_rss_ratio = "off"\n')
    return max((pytester.path / ".infopt" / "runs").glob("*/result.json"))


def _row(document: dict[str, Any], metric: str) -> dict[str, Any]:
    (row,) = (row for row in document["gates"] if row["metric"] == metric)
    return row


def _value(document: dict[str, Any]) -> None:
    _row(document, "kl_mean")["value"] = 0.5


def _limit(document: dict[str, Any]) -> None:
    _row(document, "kl_mean")["budget"] /= 2


def _count(document: dict[str, Any]) -> None:
    _row(document, "top1_agreement")["n"] += 1


def _estimate(document: dict[str, Any]) -> None:
    _row(document, "kl_mean")["verdict"] = None


def _row_left_out(document: dict[str, Any]) -> None:
    document["gates"].remove(_row(document, "perplexity_ratio"))


def _gate_left_out(document: dict[str, Any]) -> None:
    (index,) = (i for i, item in enumerate(document["items"]) if item["gate"] == "stability")
    document["gates"] = [row for row in document["gates"] if row["item"] != index]
    for row in document["gates"]:
        row["item"] -= row["item"] > index
    del document["items"][index]


def test_a_run_is_verified_without_any_model(finished: Path, capsys) -> None:
    capsys.readouterr()
    for name in (str(finished), str(finished.parent), finished.parent.name, "latest"):
        assert main(["verify", name]) == 0
        assert capsys.readouterr().out.strip().endswith("all as written")


@pytest.mark.parametrize("edit", [_value, _limit, _count, _estimate, _row_left_out, _gate_left_out])
def test_a_result_that_was_edited_differs(finished: Path, edit: Edit, capsys) -> None:
    document = loads(finished.read_text())
    edit(document)
    finished.write_text(dumps(document))
    capsys.readouterr()
    assert main(["verify", "latest"]) == 1
    (difference, outcome) = capsys.readouterr().out.strip().splitlines()
    assert difference.startswith("differs: ")
    assert outcome.endswith(": 1 differ")


def test_a_run_without_its_journal_cannot_be_verified(finished: Path, capsys) -> None:
    next(finished.parent.glob("journal*.jsonl")).unlink()
    assert main(["verify", str(finished)]) == 2
    assert "hold no terms of judgement" in capsys.readouterr().err


def test_a_resumed_run_is_verified(gate, finished: Path, capsys) -> None:
    (journal,) = finished.parent.glob("journal*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) // 2]))
    gate("--infopt-resume", *RUN, budgets='host_peak_rss_ratio = "off"\n')
    capsys.readouterr()
    assert main(["verify", "latest"]) == 0


def test_a_candidate_that_fails_is_compared_with_one_that_passed(
    gate, damaged, finished: Path, capsys
) -> None:
    def blur(module: Any) -> None:
        module.model.norm.weight.data *= 1.5

    gate(*RUN, candidates={"same": f'model = "{damaged("broken", blur)}"'})
    capsys.readouterr()
    assert main(["compare", finished.parent.name, "latest"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "before PASS, after FAIL"
    assert any(line.split() == ["quality", "gate", "PASS", "FAIL"] for line in lines)
    assert any(line.strip().startswith("candidate same, fingerprint:") for line in lines)


def test_a_run_is_no_other_than_itself(finished: Path, capsys) -> None:
    capsys.readouterr()
    assert main(["compare", "latest", str(finished)]) == 0
    assert "no judgement is otherwise" in capsys.readouterr().out


def test_the_plan_is_what_collecting_prints(gate, capsys) -> None:
    collected = gate("--collect-only").outlines
    capsys.readouterr()
    assert main(["plan"]) == (1 if any("missing: " in line for line in collected) else 0)
    planned = capsys.readouterr().out.splitlines()
    assert planned
    assert set(planned) <= set(collected)


@pytest.mark.parametrize("command", ["verify", "compare latest"])
def test_a_run_that_is_not_there_is_named(command: str, pytester, capsys) -> None:
    assert main([*command.split(), "nowhere/at/all"]) == 2
    assert "holds no result.json" in capsys.readouterr().err
