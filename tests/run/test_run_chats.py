"""A server that completes chats only, in whole runs: what it can be gated on, and what is told of
the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai_server_fake import Behaviour, openai_server
from test_run_endpoint import PLAN, in_turns, model, served
from test_run_served_prefix import whole_blocks
from transformers import AutoTokenizer

from pytest_infopt.run.exit_status import ExitStatus

TEMPLATE = "w99 {% for m in messages %}w98 {{ m['content'] }} w97{% endfor %}"
PREFIX = "[served_prefix]\nprompts = 2\nprompt_tokens = 40\nnew_tokens = 4\n"
Run = Callable[..., pytest.RunResult]


@pytest.fixture(scope="module")
def template(tiny_reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer of the reference, with a chat template."""
    folder = tmp_path_factory.mktemp("template")
    tokenizer = AutoTokenizer.from_pretrained(tiny_reference)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def chatting(template: Path, damaged: Callable[..., Path]) -> Callable[..., Path]:
    """A copy of the reference with a chat template, and something done to its module."""

    def build(name: str, damage: Callable[[Any], None] = lambda module: None) -> Path:
        folder = damaged(name, damage)
        for file in template.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    return build


@pytest.fixture
def run(pytester: pytest.Pytester, tiny_corpus: Path) -> Run:
    def gated(reference: str, url: str, *words: str, more: str = PLAN) -> pytest.RunResult:
        (pytester.path / "infopt.toml").write_text(
            f"[reference]\n{reference}[candidates.served]\n{served(url)}"
            f'[budgets]\nttft_ratio = "off"\ntpot_ratio = "off"\n'
            "[equivalence]\nprompts = 2\ntokens = 16\n"
            f'[corpus]\nfiles = ["{tiny_corpus}"]\n{more}'
        )
        given = ("--infopt", "-p", "no:cacheprovider", *words, "--pyargs", "infopt_suites.gates")
        return pytester.runpytest_inprocess(*given)

    return gated


@pytest.mark.parametrize("scores", [True, False])
def test_the_reference_behind_chats_passes(
    run: Run, result: Any, chatting: Any, scores: bool, tmp_path: Path
) -> None:
    folder = chatting("own")
    engine = model(folder)
    words = "w5 w17 w3"
    answer = engine.decode(engine.greedy_tokens(engine.encode(words, "chat"), 2))
    item = {"question": words, "answer": answer}
    items = [json.dumps({**item, "id": f"{index}"}) for index in range(55)]
    (tmp_path / "words.jsonl").write_text("\n".join(items))
    tasks = f'[tasks]\nfiles = ["{tmp_path}/words.jsonl"]\nnew_tokens = 2\nbegins_with = "chat"\n'
    behaviour = Behaviour("chat", scores=scores, cache=whole_blocks)
    with openai_server(engine, behaviour) as server:
        more = PLAN + PREFIX + tasks + "[candidates.served.budgets]\ntask_accuracy_loss = '10 %'\n"
        found = run(f'model = "{folder}"\n', server.url, more=more)
    assert found.ret == ExitStatus.PASSED, found.stdout.str()
    rows = {row["metric"]: row for row in result()["gates"]}
    assert rows["endpoint_token_mismatches"]["verdict"] == "PASS"
    assert rows["endpoint_top1_agreement"]["value"] == 1
    assert rows[f"same_model_{'distance' if scores else 'changes'}"]["verdict"] == "PASS"
    assert rows["served_prefix_changes"]["verdict"] == "PASS"
    assert rows["task_accuracy_loss"]["verdict"] == "PASS"
    assert ("endpoint_kl_mean" in rows) is ("served_prefix_log_prob_ratio" in rows) is scores


@pytest.mark.slow
@pytest.mark.parametrize("scores", [True, False])
def test_a_damaged_model_behind_chats_fails(
    run: Run, result: Any, chatting: Any, scores: bool
) -> None:
    def damage(module: Any) -> None:
        module.model.layers[0].mlp.down_proj.weight.data.mul_(-1.0)

    engine = model(chatting("broken", damage))
    with openai_server(engine, Behaviour("chat", scores=scores)) as server:
        off = '[candidates.served.budgets]\nendpoint_token_mismatches = "off"\n' if scores else ""
        reference = f'model = "{chatting("own")}"\n'
        found = run(reference, server.url, "-k", "endpoint", more=PLAN + off)
    assert found.ret == ExitStatus.FAILED
    failed = {row["metric"] for row in result()["gates"] if row["verdict"] == "FAIL"}
    assert failed == {"endpoint_kl_mean" if scores else "endpoint_token_mismatches"}


def test_tasks_that_are_no_chats_are_not_run(
    run: Run, result: Any, chatting: Any, tmp_path: Path
) -> None:
    (tmp_path / "words.jsonl").write_text('{"id": "1", "question": "w1", "answer": "w2"}')
    folder = chatting("own")
    with openai_server(model(folder), Behaviour("chat")) as server:
        more = f'[tasks]\nfiles = ["{tmp_path}/words.jsonl"]\n'
        assert run(f'model = "{folder}"\n', server.url, "-k", "tasks", more=more).ret == 10
    told = json.dumps(result())
    assert "not applicable: the server of 'served' completes chats only" in told


@pytest.mark.slow
def test_two_servers_that_complete_chats_only_are_compared(
    run: Run, result: Any, chatting: Any
) -> None:
    folder = chatting("own")
    engine = model(folder)
    limit = '[candidates.served.budgets]\nendpoint_top1_agreement = "50 %"\n'
    with (
        openai_server(engine, Behaviour("chat")) as one,
        openai_server(engine, Behaviour("chat")) as other,
    ):
        reference = f'model = "{folder}"\n{served(one.url)}'
        plan = PLAN.replace("prompts = 6", "prompts = 20") + limit
        found = run(reference, other.url, "-k", "endpoint", more=plan)
    assert found.ret == ExitStatus.PASSED, found.stdout.str()
    rows = {row["metric"]: row for row in result()["gates"]}
    assert rows["endpoint_top1_agreement"]["value"] == 1
    assert rows["endpoint_kl_mean"]["verdict"] == "PASS"


def test_a_candidate_in_process_is_held_against_a_reference_that_completes_chats_only(
    pytester: pytest.Pytester, result: Any, chatting: Any, tiny_corpus: Path
) -> None:
    folder = chatting("own")
    with openai_server(model(folder), Behaviour("chat")) as server:
        (pytester.path / "infopt.toml").write_text(
            f'[reference]\nmodel = "{folder}"\n{served(server.url)}'
            f'[candidates.here]\nmodel = "{folder}"\nengine = "transformers"\n'
            "[candidates.here.budgets]\nendpoint_kl_mean = 0.01\n"
            f'[corpus]\nfiles = ["{tiny_corpus}"]\n{PLAN.replace("prompts = 6", "prompts = 20")}'
        )
        words = ("-p", "no:cacheprovider", "-k", "endpoint", "--pyargs", "infopt_suites.gates")
        run = pytester.runpytest_inprocess("--infopt", *words)
    rows = {row["metric"]: row for row in result()["gates"] if row["gate"] == "endpoint"}
    assert run.ret == ExitStatus.PASSED, run.outlines
    assert rows["endpoint_kl_mean"]["verdict"] == "PASS"
    assert rows["endpoint_kl_mean"]["value"] < 1e-6


@pytest.mark.slow
def test_two_servers_that_complete_chats_only_take_turns(
    pytester: pytest.Pytester, result: Any, chatting: Any, tiny_corpus: Path
) -> None:
    """Each is asked for all documents in a turn: its answers, and its rows along the other's."""
    starts = in_turns(pytester, chatting("own"), tiny_corpus, "chat")
    assert starts == ["reference", "candidate"] * 2 + ["reference"]
    rows = {row["metric"]: row for row in result()["gates"]}
    assert rows["endpoint_kl_mean"]["verdict"] == "PASS"
