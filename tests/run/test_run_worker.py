"""A worker process: its answers, and every way in which it can die."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from worker_host import Guest

from pytest_infopt.errors import InfoptError, ModelLoadError, WorkerError
from pytest_infopt.process.remote import RemoteProxy
from pytest_infopt.process.worker import Worker

Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts workers that hold a `worker_host.Host`."""
    started: list[Worker] = []

    def start(word: str = "", timeout_seconds: float = 60.0) -> Worker:
        worker = Worker(
            "worker_host:Host",
            word,
            log=tmp_path / "logs" / "worker.log",
            timeout_seconds=timeout_seconds,
        )
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()


def test_calls_run_in_another_process(start: Start) -> None:
    worker = start()
    assert worker.call("", "pid") not in (os.getpid(), os.getppid())
    worker.close()
    assert not worker.alive


def test_an_object_is_made_of_the_host_once(start: Start) -> None:
    worker = start("host")
    assert worker.call("worker_host:Guest", "host_word", "!") == ("host!", 1)
    assert worker.call("worker_host:Guest", "host_word", "?") == ("host?", 2)


def test_a_proxy_stands_for_the_object(start: Start) -> None:
    guest = cast(Guest, RemoteProxy(partial(start("host").call, "worker_host:Guest")))
    assert guest.host_word("!") == ("host!", 1)


@pytest.mark.parametrize("method", ["private", "word", "gone", "__init__"])
def test_only_marked_methods_can_be_called(start: Start, method: str) -> None:
    worker = start()
    with pytest.raises(InfoptError, match="has no remote method") as refusal:
        worker.call("", method)
    assert "pid, say, size, sleep" in str(refusal.value)
    assert worker.call("", "pid") > 0


def test_an_error_comes_home_with_its_name_and_the_worker_lives_on(start: Start) -> None:
    worker = start()
    with pytest.raises(WorkerError, match="FileNotFoundError"):
        worker.call("", "size", "/no/such/file")
    assert worker.alive
    assert worker.call("", "pid") > 0


def test_an_error_of_this_package_keeps_its_type(tmp_path: Path) -> None:
    worker = Worker(
        "pytest_infopt.engines.files.checkpoints:check_checkpoint",
        tmp_path / "nothing-here",
        log=tmp_path / "worker.log",
        timeout_seconds=60,
    )
    with pytest.raises(ModelLoadError, match="nothing-here"):
        worker.call("", "anything")
    worker.kill()


def test_a_killed_process_is_named_with_its_signal(start: Start) -> None:
    worker = start()
    with pytest.raises(WorkerError, match=r"SIGKILL \(out of memory\?"):
        worker.call("", "die", signal.SIGKILL)
    assert not worker.alive


def test_an_exit_quotes_the_last_words(start: Start) -> None:
    worker = start()
    worker.call("", "say", b"the last words\n")
    with pytest.raises(WorkerError, match=r"status 3; its last words:\nthe last words"):
        worker.call("", "exit", 3)


def test_a_hang_is_cut_off(start: Start) -> None:
    worker = start(timeout_seconds=0.5)
    with pytest.raises(WorkerError, match=r"did not answer within 0\.5 s"):
        worker.call("", "sleep", 3600)
    assert not worker.alive


def test_calls_after_death_say_so_again(start: Start) -> None:
    worker = start()
    with pytest.raises(WorkerError):
        worker.call("", "die", signal.SIGABRT)
    with pytest.raises(WorkerError):
        worker.call("", "pid")
