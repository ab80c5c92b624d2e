"""A URL as candidate and as reference: what its server tells is gated, what it lacks is told."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from infopt_suites.gates.latency.measure import LatencyMeasure
from infopt_suites.gates.throughput.measure import ThroughputMeasure
from openai_server_fake import Behaviour, openai_server

from pytest_infopt.engines.registry import load_engine
from pytest_infopt.engines.transformers.engine import TransformersEngine
from pytest_infopt.errors import NotSupportedError
from pytest_infopt.process.pair_texts import PairTexts
from pytest_infopt.release import ModelSource, Release, ServerSource
from pytest_infopt.run.exit_status import ExitStatus

ENDPOINT = ("-k", "endpoint")
PLAN = "[endpoint]\nprompts = 6\nprompt_tokens = 12\nnew_tokens = 6\npositions = 8\n"


def model(folder: Path) -> TransformersEngine:
    engine = load_engine(ModelSource("served", str(folder)))
    assert isinstance(engine, TransformersEngine)
    return engine


def served(url: str, more: str = "") -> str:
    return f'engine = "openai"\nserver.url = "{url}"\n{more}'


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["metric"]: row for row in document["gates"] if row["gate"] == "endpoint"}


@pytest.mark.parametrize("dialect", ["vllm", "llama.cpp", "text"])
def test_the_reference_behind_a_url_passes(gate, result, tiny_reference, dialect: str) -> None:
    with openai_server(model(tiny_reference), Behaviour(dialect)) as server:
        run = gate(*ENDPOINT, candidates={"served": served(server.url)}, more=PLAN)
    assert run.ret == ExitStatus.PASSED
    rows = rows_of(result())
    assert rows["endpoint_token_mismatches"]["verdict"] == "PASS"
    assert rows["endpoint_top1_agreement"]["value"] == 1.0
    if dialect == "text":
        (item,) = result()["items"]
        assert "endpoint_kl_mean" not in rows
        assert "the server tells no log-probabilities" in " ".join(item["notes"])
    else:
        assert rows["endpoint_kl_mean"]["verdict"] == "PASS"
        assert rows["endpoint_kl_mean"]["value"] < 1e-6


@pytest.mark.parametrize("dialect", ["vllm", "text"])
def test_a_damaged_model_behind_a_url_fails(gate, result, damaged, dialect: str) -> None:
    def damage(module: Any) -> None:
        module.model.layers[0].mlp.down_proj.weight.data.mul_(-1.0)

    with openai_server(model(damaged("broken", damage)), Behaviour(dialect)) as server:
        run = gate(*ENDPOINT, candidates={"served": served(server.url)}, more=PLAN)
    assert run.ret == ExitStatus.FAILED
    document = result()
    assert rows_of(document)["endpoint_token_mismatches"]["verdict"] == "FAIL"
    finding = document["items"][0]["findings"][0]
    assert finding["reference_top"][0][0] != finding["candidate_top"][0][0]


def test_a_damaged_model_fails_by_its_log_probabilities_alone(gate, result, damaged) -> None:
    def damage(module: Any) -> None:
        module.model.layers[0].mlp.down_proj.weight.data.mul_(-1.0)

    limits = '[candidates.served.budgets]\nendpoint_token_mismatches = "off"\n'
    with openai_server(model(damaged("broken", damage)), Behaviour("llama.cpp")) as server:
        lines = served(server.url, limits)
        assert gate(*ENDPOINT, candidates={"served": lines}, more=PLAN).ret == ExitStatus.FAILED
    assert rows_of(result())["endpoint_kl_mean"]["verdict"] == "FAIL"


def test_misaligned_log_probabilities_are_no_verdict(gate, result, tiny_reference) -> None:
    with openai_server(model(tiny_reference), Behaviour("openai", shift=1)) as server:
        run = gate(*ENDPOINT, candidates={"served": served(server.url)}, more=PLAN)
    assert run.ret == ExitStatus.INCONCLUSIVE
    assert "misaligned (shift +1)" in result()["gates"][0]["reason"]


def test_a_server_passes_a_whole_run(gate, result, tiny_reference) -> None:
    """Nothing is left out: gates that nobody asked for, and no server can serve, do not apply."""
    with openai_server(model(tiny_reference), Behaviour("vllm")) as server:
        run = gate(candidates={"served": served(server.url)}, more=PLAN)
    assert run.ret == ExitStatus.PASSED
    document = result()
    gated = {item["gate"] for item in document["items"]}
    assert document["verdict"] == "PASS"
    assert document["left_out"] == document["not_run"] == []
    (sentence,) = document["not_applicable"]
    assert sentence.startswith("served: not applicable to engine openai: equivalence needs full l")
    assert "quality needs scores; " in sentence
    told = {each.partition(" needs ")[0] for each in sentence.rpartition("openai: ")[2].split("; ")}
    assert gated.isdisjoint(told)
    assert "endpoint" in gated - told
    run.stdout.fnmatch_lines(["NOT APPLICABLE", "  served: not applicable to engine openai: *"])


def test_what_was_asked_for_and_no_server_serves_is_not_run(gate, result, tiny_reference) -> None:
    """By a limit, and by a setting."""
    asked = PLAN + "[long_context]\nlengths = [8]\n"
    with openai_server(model(tiny_reference), Behaviour("vllm")) as server:
        lines = served(server.url)
        run = gate(candidates={"served": lines}, more=asked, budgets='kl_mean = "1 nats"')
    assert run.ret == ExitStatus.INCONCLUSIVE
    document = result()
    reasons = {item["gate"]: item["not_run"] for item in document["items"] if item["not_run"]}
    assert reasons == {
        "quality": "engine 'openai' lacks: scores",
        "long-context": "engine 'openai' lacks: scores",
    }
    assert "quality" not in document["not_applicable"][0]


def test_a_named_gate_that_no_server_serves_is_not_run(gate, result, tiny_reference) -> None:
    named = ("infopt_suites.gates.quality", "infopt_suites.gates.endpoint")
    with openai_server(model(tiny_reference), Behaviour("vllm")) as server:
        lines = served(server.url)
        both = gate("--pyargs", *named, candidates={"served": lines}, more=PLAN, named=True)
        why = "quality of served: not applicable to engine openai: needs scores"
        assert (both.ret, result()["not_run"]) == (ExitStatus.INCONCLUSIVE, [why])
        selected = gate("-k", "quality or endpoint", candidates={"served": lines}, more=PLAN)
        assert (selected.ret, result()["not_run"]) == (ExitStatus.INCONCLUSIVE, [why])
    alone = gate("--pyargs", named[0], candidates={"served": lines}, more=PLAN, named=True)
    assert alone.ret not in (ExitStatus.PASSED, ExitStatus.FAILED)
    assert result()["verdict"] == "INCONCLUSIVE"
    assert result()["not_run"] == [why]


def test_a_run_in_which_no_gate_applies_is_no_pass(gate, result, tiny_reference) -> None:
    off = '[candidates.served.budgets]\nendpoint_kl_mean = "off"\n'
    off += 'endpoint_token_mismatches = "off"\n'
    off += 'same_model_distance = "off"\nsame_model_changes = "off"\n'
    run = gate(candidates={"served": served("http://127.0.0.1:9/v1", off)}, more=PLAN)
    assert run.ret not in (ExitStatus.PASSED, ExitStatus.FAILED)
    assert result()["verdict"] == "INCONCLUSIVE"
    assert result()["not_run"] == ["served: no gate judges it, because it has no limits"]


def test_what_a_server_lacks_is_told_before_it_is_asked(gate, tiny_reference) -> None:
    run = gate("--collect-only", candidates={"served": served("http://127.0.0.1:9/v1")}, more=PLAN)
    run.stdout.fnmatch_lines(["served: not applicable to engine openai: *quality needs scores*"])
    run = gate("--collect-only", candidates={"served": 'engine = "openai"'})
    run.stdout.fnmatch_lines(["missing: candidate served: engine 'openai' asks a server*"])


def test_two_urls_are_compared(pytester: pytest.Pytester, result, tiny_reference, tiny_corpus):
    """A served reference: an agreement, and a divergence over what both tell."""
    engine = model(tiny_reference)
    with (
        openai_server(engine, Behaviour("vllm")) as first,
        openai_server(engine, Behaviour("llama.cpp")) as second,
    ):
        (pytester.path / "infopt.toml").write_text(
            f'[reference]\nmodel = "{tiny_reference}"\n{served(first.url)}'
            f"[candidates.served]\n{served(second.url)}"
            f'[corpus]\nfiles = ["{tiny_corpus}"]\n{PLAN.replace("prompts = 6", "prompts = 20")}'
            '[budgets]\nendpoint_top1_agreement = "50 %"\n'
        )
        words = ("-p", "no:cacheprovider", *ENDPOINT, "--pyargs", "infopt_suites.gates")
        run = pytester.runpytest_inprocess("--infopt", *words)
    assert run.ret == ExitStatus.PASSED
    rows = rows_of(result())
    assert (
        rows["endpoint_kl_mean"]["verdict"] == rows["endpoint_top1_agreement"]["verdict"] == "PASS"
    )


SERVER = f"""
import sys
sys.path[:0] = {sys.path!r}
from openai_server_fake import Behaviour, FakeServer
from pytest_infopt.engines.registry import load_engine
from pytest_infopt.release import ModelSource
engine = load_engine(ModelSource("served", sys.argv[1]))
FakeServer(engine, Behaviour("vllm"), port=int(sys.argv[2])).serve_forever()
"""


@pytest.mark.slow
def test_a_server_that_the_release_starts_is_gone_with_the_run(
    gate, result, tiny_reference, tmp_path: Path
) -> None:
    script = tmp_path / "serve.py"
    script.write_text(SERVER)
    command = [sys.executable, str(script), str(tiny_reference), "{port}"]
    lines = served("http://127.0.0.1:{port}/v1", f"server.command = {command}\n")
    run = gate(*ENDPOINT, candidates={"served": lines}, more=PLAN)
    assert run.ret == ExitStatus.PASSED
    assert rows_of(result())["endpoint_kl_mean"]["verdict"] == "PASS"
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert str(script) not in listed.stdout


ALONE = """
import os, sys
device = os.open("device", os.O_CREAT | os.O_RDWR)
os.lockf(device, os.F_TLOCK, 0)  # held until the process ends; refused while another holds it
with open("starts", "a") as starts:
    starts.write(sys.argv[3] + " ")
"""


def in_turns(pytester: pytest.Pytester, model: Path, corpus: Path, dialect: str) -> list[str]:
    """Gates a model behind two servers that take turns: who was started, in order. Each of the two
    would end at once beside the other."""
    (pytester.path / "serve.py").write_text(ALONE + SERVER.replace('"vllm"', f'"{dialect}"'))

    def lines(name: str) -> str:
        command = [sys.executable, "serve.py", str(model), "{port}", name]
        more = f"server.command = {command}\nserver.in_turns = true\n"
        return served("http://127.0.0.1:{port}/v1", more)

    (pytester.path / "infopt.toml").write_text(
        f'[reference]\nmodel = "{model}"\n{lines("reference")}'
        f"[candidates.served]\n{lines('candidate')}"
        f'[corpus]\nfiles = ["{corpus}"]\n{PLAN.replace("prompts = 6", "prompts = 20")}'
        '[budgets]\nendpoint_top1_agreement = "50 %"\n'
    )
    words = ("-p", "no:cacheprovider", "--pyargs", "infopt_suites.gates")
    assert pytester.runpytest_subprocess("--infopt", *words).ret == ExitStatus.PASSED
    return (pytester.path / "starts").read_text().split()


@pytest.mark.slow
def test_two_servers_take_turns_on_one_device(
    pytester: pytest.Pytester, result: Any, tiny_reference: Path, tiny_corpus: Path
) -> None:
    """Either is asked for all documents in a turn."""
    starts = in_turns(pytester, tiny_reference, tiny_corpus, "vllm")
    assert starts == ["reference", "candidate"] * 2 + ["reference"]  # tokens, log-probabilities
    rows = rows_of(result())
    assert rows["endpoint_kl_mean"]["verdict"] == "PASS"
    assert rows["endpoint_top1_agreement"]["verdict"] == "PASS"
    assert "latency" not in {row["gate"] for row in result()["gates"]}


def test_servers_take_turns_with_each_other_alone(gate: Any) -> None:
    command = 'server.command = ["serve", "{port}"]\nserver.in_turns = true\n'
    run = gate("--collect-only", candidates={"served": served("http://h:{port}/v1", command)})
    run.stderr.fnmatch_lines(["*candidates.served.server.in_turns: reference takes no turns*"])
    alone = served("http://h:1/v1", "server.in_turns = true\n")
    run = gate("--collect-only", candidates={"served": alone})
    run.stderr.fnmatch_lines(["*server.in_turns: takes a command*"])


def test_gates_on_time_refuse_servers_that_take_turns() -> None:
    turns = replace(ModelSource("m", "m"), server=ServerSource("http://h", in_turns=True))
    pair = PairTexts(Release(turns, []), turns, Path())
    for measure in (LatencyMeasure, ThroughputMeasure):
        with pytest.raises(NotSupportedError, match="the servers take turns"):
            measure(pair)  # type: ignore[arg-type]  # nothing else is asked of the pair
