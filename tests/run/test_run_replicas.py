"""Workers of pytest-xdist share out the replicas of a server; the verdict is the serial one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai_server_fake import Behaviour, openai_server
from test_run_endpoint import PLAN, model

from pytest_infopt.configuration import load_release
from pytest_infopt.errors import ConfigurationError
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


def values(document: dict[str, Any]) -> dict[tuple[str, str], tuple[Any, ...]]:
    judged = ("verdict", "value", "interval", "n", "clusters")
    return {
        (row["gate"], row["metric"]): tuple(str(row[key]) for key in judged)
        for row in document["gates"]
    }


@pytest.mark.slow
def test_two_workers_ask_two_replicas_and_judge_as_one(
    gate: Any, result: Any, tiny_reference: Any
) -> None:
    more = f"{PLAN}[served_prefix]\nprompts = 2\nprompt_tokens = 48\nnew_tokens = 4\n"
    cached = Behaviour("vllm", cache=lambda ids, before: (32 if ids in before else 0, ids))
    served = model(tiny_reference)
    with openai_server(served, cached) as first, openai_server(served, cached) as second:
        lines = f'engine = "openai"\nserver.url = "{first.url}"\nserver.replicas = ["{second.url}"]'
        run = {"candidates": {"served": lines}, "more": more}
        assert gate(**run).ret == ExitStatus.PASSED
        alone, asked = values(result()), len(second.bodies)
        run["subprocess"] = True
        assert gate("-n2", "--dist=loadgroup", **run).ret == ExitStatus.PASSED
        assert asked == 0 < len(second.bodies)
    assert values(result()) == alone
    assert {name for name, _ in alone} >= {"endpoint", "served-prefix"}
