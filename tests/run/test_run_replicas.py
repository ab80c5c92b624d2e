"""Replicas of a server share out requests, or workers of pytest-xdist the replicas; the verdict is
that of one replica."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_server_fake import Behaviour, openai_server
from test_run_endpoint import ENDPOINT, PLAN, model

from pytest_infopt.configuration import load_release
from pytest_infopt.errors import ConfigurationError
from pytest_infopt.measure import AskedAhead
from pytest_infopt.release import ServerSource
from pytest_infopt.run.exit_status import ExitStatus


@given(count=st.integers(1, 8), more=st.integers(0, 20))
def test_workers_have_addresses_of_their_own_as_far_as_there_are_enough(
    count: int, more: int
) -> None:
    urls = [f"http://replica-{index}/v1" for index in range(count)]
    server = ServerSource(urls[0], replicas=tuple(urls[1:]))
    shares = [server.share(worker) for worker in range(count + more)]
    assert [share.url for share in shares[:count]] == urls
    assert all(share.url == urls[place % count] for place, share in enumerate(shares))
    assert all(sorted(share.addresses) == sorted(urls) for share in shares)


def test_replicas_of_a_server_that_is_started_are_refused(tmp_path: Path) -> None:
    (tmp_path / "infopt.toml").write_text(
        '[candidates.served]\nengine = "openai"\nserver.url = "http://localhost:1/v1"\n'
        'server.command = ["serve"]\nserver.replicas = ["http://localhost:2/v1"]\n'
    )
    with pytest.raises(
        ConfigurationError, match=r"server\.replicas: are of a server that is there"
    ):
        load_release(tmp_path)


@given(replicas=st.integers(1, 4), units=st.integers(1, 30), data=st.data())
def test_units_are_asked_once_in_turns_and_a_few_ahead(
    replicas: int, units: int, data: st.DataObject
) -> None:
    """Whichever of the units are needed, in their order; others had been measured before."""
    needed = sorted(data.draw(st.sets(st.integers(0, units - 1), min_size=1)))
    asked: list[tuple[int, int]] = []

    def ask(engine: Any, unit: int) -> int:
        asked.append((engine.place, unit))
        return -unit

    engines = [SimpleNamespace(place=place) for place in range(replicas)]
    answer = AskedAhead(engines, range(units), ask)
    for unit in needed:
        assert answer(unit) == -unit
        assert max(each for _, each in asked) < unit + 2 * replicas
    answer.close()
    assert len({unit for _, unit in asked}) == len(asked)
    assert all(place == unit % replicas for place, unit in asked)


def test_replicas_answer_at_once_and_an_error_comes_where_its_unit_is_needed() -> None:
    together = threading.Barrier(3, timeout=60)  # passed by all three at once, or by none

    def ask(engine: Any, unit: int) -> int:
        if unit == 4:
            raise ConfigurationError("the fifth")
        if unit < 3:
            together.wait()
        return unit

    answer = AskedAhead([SimpleNamespace()] * 3, range(6), ask)
    assert [answer(unit) for unit in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ConfigurationError, match="the fifth"):
        answer(4)
    assert answer(5) == 5
    answer.close()


def values(document: dict[str, Any]) -> dict[tuple[str, str], tuple[Any, ...]]:
    judged = ("verdict", "value", "interval", "n", "clusters")
    return {
        (row["gate"], row["metric"]): tuple(str(row[key]) for key in judged)
        for row in document["gates"]
        if "ttft" not in row["metric"]
    }


def test_one_process_asks_both_replicas_and_judges_as_by_one(
    gate: Any, result: Any, tiny_reference: Any, tiny_corpus: Path
) -> None:
    served = model(tiny_reference)
    with (
        openai_server(served, Behaviour("vllm")) as one,
        openai_server(served, Behaviour("vllm")) as other,
    ):
        lines = f'engine = "openai"\nserver.url = "{one.url}"'
        more = f'\nserver.replicas = ["{other.url}"]'
        assert gate(*ENDPOINT, candidates={"served": lines}, more=PLAN).ret == ExitStatus.PASSED
        alone = values(result())
        one.bodies.clear()
        run = gate(*ENDPOINT, candidates={"served": lines + more}, more=PLAN)
        assert run.ret == ExitStatus.PASSED
    assert values(result()) == alone
    documents = [json.loads(line)["text"].split() for line in tiny_corpus.read_text().splitlines()]
    texts, others = (
        [
            body["prompt"]
            for body in server.bodies
            if body.get("prompt_logprobs") and len(body["prompt"]) == len(documents[0])
        ]
        for server in (one, other)
    )
    asked = {tuple(ids) for ids in (*texts, *others)}
    assert len(asked) == len(texts) + len(others) > 0  # each of one of the two, once
    assert abs(len(texts) - len(others)) <= 1


@pytest.mark.slow
def test_two_workers_ask_two_replicas_and_judge_as_one(
    gate: Any, result: Any, tiny_reference: Any
) -> None:
    more = f"{PLAN}[served_prefix]\nprompts = 2\nprompt_tokens = 48\nnew_tokens = 4\n"
    cached = Behaviour("vllm", cache=lambda ids, before: (32 if ids in before else 0, ids))
    served = model(tiny_reference)
    with openai_server(served, cached) as first, openai_server(served, cached) as second:
        url, others = f'server.url = "{first.url}"', f'server.replicas = ["{second.url}"]'
        served_by_one = {"served": f'engine = "openai"\n{url}'}
        assert gate(candidates=served_by_one, more=more).ret == ExitStatus.PASSED
        alone = values(result())
        run = gate(
            "-n2",
            "--dist=loadgroup",
            candidates={"served": f"{served_by_one['served']}\n{others}"},
            more=more,
            subprocess=True,
        )
        assert run.ret == ExitStatus.PASSED
        assert second.bodies
    assert values(result()) == alone
    assert {name for name, _ in alone} >= {"endpoint", "served-prefix"}
